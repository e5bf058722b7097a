"""torch.onnx.export(dynamo=True): standard operators, which onnxruntime runs with our values."""

import io

import onnx
import onnxruntime
import pytest
import torch
from calls import All, C, H, N, W, composed, functions, modules

import attn_kernels as ak

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter warns of itself


def exported(model, *arguments, **options):
    program = torch.onnx.export(model, *arguments, dynamo=True, verbose=False, **options)
    stream = io.BytesIO()
    program.save(stream)
    return stream.getvalue()


def assert_standard_and_right(model_bytes, module, x):
    model = onnx.load_from_string(model_bytes)
    assert {opset.domain for opset in model.opset_import} <= {""}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    session = onnxruntime.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    found = session.run(None, {name: x.numpy()})
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(module(x))
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours)


@pytest.mark.parametrize("of", [functions, modules, composed])
def test_every_function_and_module_with_any_batch(of):
    module = All(of().values()).eval()
    batch = {"x": {0: torch.export.Dim("batch")}}
    model = exported(module, (torch.randn(N, C, H, W),), dynamic_shapes=batch)
    for n in (1, N, 5):
        assert_standard_and_right(model, module, torch.randn(n, C, H, W))


def test_what_was_exported_before():
    """An exported program keeps our ops; ONNX gets others from it too, and nobody else does."""
    module, x = All([ak.SpatialGate(3), ak.GAMChannelGate(C)]).eval(), torch.randn(N, C, H, W)
    program = torch.export.export(module, (x,))
    assert_standard_and_right(exported(program), module, x)
    for still in (program, torch.export.export(module, (x,)).run_decompositions()):
        targets = [str(node.target) for node in still.graph.nodes]
        assert "attn_kernels.spatial_gate.default" in targets
        assert "attn_kernels.gam_channel_gate.default" in targets
