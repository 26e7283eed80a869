"""What a capture refuses, and in which words: a step that would fail obscurely, or run and be wrong.

Three stages run in order: the model (``refuse_model``), the call (``refuse_call``), and, once the step is recorded, what it
would lose and the graph (``refuse_python_state``, ``refuse_graph``). What shows only while the step is recorded is raised by
the recorder with the functions of ``recording`` and ``loss``. ``refuse_...`` raises, ``..._error`` returns the error.
"""

from remat_planner.tracer.refusals.call import refuse_call
from remat_planner.tracer.refusals.compiled import compiled_function_error, refuse_compiled, refuse_compiled_around
from remat_planner.tracer.refusals.functions import address_error, drawing_function_error, function_error
from remat_planner.tracer.refusals.graph import refuse_constants, refuse_graph, refuse_python_state, unmatched_draw_error
from remat_planner.tracer.refusals.layouts import (
    nested_loss_error,
    nested_tensor_error,
    refuse_made_layout,
    refuse_output_layouts,
    sparse_operator_error,
)
from remat_planner.tracer.refusals.loss import (
    loss_arguments_error,
    loss_of_no_output_error,
    loss_raised_error,
    loss_reads_value_error,
    refuse_loss,
)
from remat_planner.tracer.refusals.model import refuse_model, refuse_without_backward
from remat_planner.tracer.refusals.recording import (
    absent_gpu_error,
    backward_raised_error,
    changed_constant_error,
    changed_view_error,
    collective_error,
    copied_error,
    data_dependent_error,
    forward_varies_error,
    gradient_attribute_error,
    higher_order_error,
    lost_hooks_error,
    model_raised_error,
    no_functional_form_error,
    python_draw_error,
    reassigned_error,
    refuse_no_gradients,
    refuse_outputs,
    refuse_sparse_gradients,
    refuse_written_activations,
    storage_view_error,
    text_error,
    used_up_error,
    without_fake_error,
)
from remat_planner.tracer.refusals.surroundings import (
    cached_parametrizations_error,
    dual_tensor_error,
    function_mode_error,
    global_hook_error,
    saved_tensor_hook_error,
    second_forward_error,
)
from remat_planner.tracer.refusals.torch_state import (
    converted_error,
    data_assigned_error,
    foreign_generator_error,
    random_state_error,
    refuse_moved_state,
    storage_changed_error,
)

__all__ = [
    "absent_gpu_error",
    "address_error",
    "backward_raised_error",
    "cached_parametrizations_error",
    "changed_constant_error",
    "changed_view_error",
    "collective_error",
    "compiled_function_error",
    "converted_error",
    "copied_error",
    "data_assigned_error",
    "data_dependent_error",
    "drawing_function_error",
    "dual_tensor_error",
    "foreign_generator_error",
    "forward_varies_error",
    "function_error",
    "function_mode_error",
    "global_hook_error",
    "gradient_attribute_error",
    "higher_order_error",
    "loss_arguments_error",
    "loss_of_no_output_error",
    "loss_raised_error",
    "loss_reads_value_error",
    "lost_hooks_error",
    "model_raised_error",
    "nested_loss_error",
    "nested_tensor_error",
    "no_functional_form_error",
    "python_draw_error",
    "random_state_error",
    "reassigned_error",
    "refuse_call",
    "refuse_compiled",
    "refuse_compiled_around",
    "refuse_constants",
    "refuse_graph",
    "refuse_loss",
    "refuse_made_layout",
    "refuse_model",
    "refuse_moved_state",
    "refuse_no_gradients",
    "refuse_output_layouts",
    "refuse_outputs",
    "refuse_python_state",
    "refuse_sparse_gradients",
    "refuse_without_backward",
    "refuse_written_activations",
    "saved_tensor_hook_error",
    "second_forward_error",
    "sparse_operator_error",
    "storage_changed_error",
    "storage_view_error",
    "text_error",
    "unmatched_draw_error",
    "used_up_error",
    "without_fake_error",
]
