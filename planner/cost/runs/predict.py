"""The price of a run: dispatch by what is timed."""

from __future__ import annotations

from planner.cost.runs.record import RunPrediction
from planner.domain.model import ModelSpec
from planner.domain.run import Run, RunKind
from planner.topology.graph import Topology


def predict_run(model: ModelSpec, topology: Topology, run: Run) -> RunPrediction:
    """Predict time and memory of a run.

    Parameters
    ----------
    model : ModelSpec
        With the precision of the run.
    topology : Topology
        At least as many chips as the run uses; the first ones are taken.

    Raises
    ------
    SpecError
        The run cannot be represented: names the reason.
    """
    if run.kind is RunKind.TRAIN:
        from planner.cost.runs.training import predict_training

        return predict_training(model, topology, run)
    from planner.cost.runs.inference import predict_inference

    return predict_inference(model, topology, run)
