import warnings

with warnings.catch_warnings():
    # gpytorch's own import calls torch.jit.script, which recent torch deprecates.
    warnings.filterwarnings("ignore", message=".torch.jit", category=DeprecationWarning)
    import gpytorch  # noqa: F401
