"""Prints every requirement of pyproject.toml's extras, for pip."""

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"].values()
print(*{r.replace(" ", "") for extra in extras for r in extra if "attn-kernels" not in r})
