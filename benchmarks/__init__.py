"""The instrument that every change of this library is judged by; README.md says how it measures."""
