"""The wandb workspace that compares methods."""

from typing import TYPE_CHECKING

from experiments.methods import METHODS
from experiments.runs.tracking import LAYERS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

METHOD = "method"
"""Key of the method in a run's config."""


def workspace(entity: str, project: str) -> "Workspace":
    """Returns the dashboard, not saved yet.

    Curves and bars show the mean and standard deviation over the runs of a method. Runs are grouped
    by table and workload; the search box of the run list selects the ones to show.

    Args:
        entity: a user or a team.
        project: the project to which the runs were logged.
    """
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    colors = {name: method.color for name, method in METHODS.items() if not method.is_recording}

    def over_time(metric: str, title: str, x: str = "compute") -> wr.LinePlot:
        return wr.LinePlot(
            title=title,
            x=wr.Metric(x),
            y=[wr.Metric(metric)],
            groupby=wr.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            line_colors=colors,
        )

    def at_the_end(metric: str, title: str) -> wr.BarPlot:
        return wr.BarPlot(
            title=title,
            metrics=[wr.SummaryMetric(metric)],
            groupby=wr.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            line_colors=colors,
        )

    final = wr.ScatterPlot(
        title="Accuracy against compute",
        x=wr.SummaryMetric("compute"),
        y=wr.SummaryMetric("accuracy"),
        legend_template="${run:displayName}",
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name="SmartFRZ: methods compared",
        auto_generate_panels=False,
        sections=[
            ws.Section(
                name="Accuracy and compute",
                panels=[final, over_time("accuracy", "Accuracy over compute")],
                is_open=True,
            ),
            ws.Section(
                name="Freezing",
                panels=[
                    over_time("frozen_fraction", "Layers frozen", "Step"),
                    over_time("loss", "Training loss", "Step"),
                    wr.MediaBrowser(title="Layers over time", media_keys=[LAYERS]),
                ],
                is_open=True,
            ),
            ws.Section(
                name="Cost",
                panels=[
                    over_time("memory_gib", "Memory, GiB", "Step"),
                    at_the_end("seconds", "Training time, seconds"),
                    at_the_end("compute", "Compute, fraction of full training's"),
                    at_the_end("tflops", "Compute, TFLOPs"),
                ],
                is_open=True,
            ),
            ws.Section(name="Cells", panels=[wr.RunComparer(diff_only=True)], is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("table"), ws.Config("model"), ws.Config("dataset")],
            order=[ws.Ordering(ws.Summary("accuracy"), ascending=False)],
            pinned_columns=[
                *(f"config:{key}" for key in ("model", "dataset", METHOD, "seed")),
                *(f"summary:{key}" for key in ("accuracy", "compute", "seconds")),
            ],
        ),
    )
