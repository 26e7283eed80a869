"""Loading the model that the command is given, and building it without memory to plan for a device that is not here."""

from remat_planner.planner.model_loading.fake_build import built_without_memory
from remat_planner.planner.model_loading.load import DEFAULT_NAME, LoadedModel, ModelCodeError, ModelNotLoadedError, load_model

__all__ = [
    "DEFAULT_NAME",
    "LoadedModel",
    "ModelCodeError",
    "ModelNotLoadedError",
    "built_without_memory",
    "load_model",
]
