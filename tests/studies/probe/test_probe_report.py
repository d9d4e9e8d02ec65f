"""Figures and page of the probe, and the command that makes them."""

from pathlib import Path

import pytest
import torch
from helpers.processes import run_python
from helpers.small_jobs import settings
from matplotlib.figure import Figure
from matplotlib.image import imread

from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.studies.probe import probe_figures
from hf_kd_lambda.studies.probe.probe import main
from hf_kd_lambda.studies.probe.probe_report import Stage, write_probe_report
from hf_kd_lambda.studies.probe.slopes import Slopes
from hf_kd_lambda.studies.probe.sweep import Sweep

SCRIPT = Path(__file__).parents[3] / "scripts" / "probe_lambda.py"
RATES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def made_up_sweep(metrics=("Gram matrix",), c=-0.5):
    """Changes that are as predicted for a = 1 and b = 2, but for a cubic term that grows with the learning rate."""
    lambdas = torch.linspace(-1, 2, 16, dtype=torch.double)
    rates = torch.tensor(RATES, dtype=torch.double)[:, None]
    products = torch.tensor([[0, 1, c], [0, c, 2]], dtype=torch.double)
    task, kd = -rates * (1 + c * lambdas), -rates * (c + 2 * lambdas) + 10 * rates**2 * lambdas**2
    changes = torch.stack([task, kd, task + lambdas * kd], dim=1)
    return Sweep((0.5, 0.25), (1.0, 1.0), RATES, lambdas, changes, dict.fromkeys(metrics, products))


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, to look into them after they were saved."""
    drawn = []

    class RecordedFigure(Figure):
        def savefig(self, *args, **kwargs):
            drawn.append(self)
            super().savefig(*args, **kwargs)

    monkeypatch.setattr(probe_figures, "Figure", RecordedFigure)
    return drawn


def test_parabolas_have_dots_on_their_lines_and_the_feasible_interval_shaded(tmp_path, figures):
    path = probe_figures.plot_parabolas(
        {"early": made_up_sweep(), "late": made_up_sweep(c=0.5)}, tmp_path / "p.png", "P"
    )
    assert imread(path).std() > 0
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels[:3]] == [f"early: {name}" for name in probe_figures.CHANGES]
    for panel in panels:
        lines = {line.get_label(): torch.tensor(line.get_ydata()) for line in panel.lines}
        torch.testing.assert_close(lines["measured, η = 1e-05"], lines["predicted: Gram matrix"], atol=1e-3, rtol=1e-3)
    shaded = [
        panel.patches[0].get_extents().transformed(panel.transData.inverted()) for panel in (panels[0], panels[3])
    ]
    assert (shaded[0].x0, shaded[0].x1) == pytest.approx((0.25, 2))  # |c|/b to a/|c|
    assert (shaded[1].x0, shaded[1].x1) == pytest.approx((0, 2))


def test_errors_are_drawn_over_the_learning_rate(tmp_path, figures):
    sgd, adamw = {"early": made_up_sweep()}, {"early": made_up_sweep(("Adam", "Euclidean"))}
    assert imread(probe_figures.plot_errors(sgd, adamw, tmp_path / "e.png", "E")).std() > 0
    misfit, _, curvature, of_adamw, _, _ = figures[0].axes
    assert misfit.lines[0].get_xdata() == pytest.approx(RATES)
    rising = torch.tensor(misfit.lines[0].get_ydata()).diff()
    assert (rising > 0).all()
    assert curvature.get_yscale() == "log"
    assert [line.get_label() for line in of_adamw.lines[:2]] == ["Adam", "Euclidean"]


def test_errors_of_every_stage_are_drawn(tmp_path, figures):
    stages = [f"step {step}" for step in range(10, 90, 10)]
    sgd = {stage: made_up_sweep() for stage in stages}
    adamw = {stage: made_up_sweep(("Adam", "Euclidean")) for stage in stages}
    probe_figures.plot_errors(sgd, adamw, tmp_path / "e.png", "E")
    assert len(figures[0].axes[0].lines) == len(stages) + 1  # and a line of the threshold


def test_the_page_says_how_far_the_prediction_holds(tmp_path):
    measured = torch.tensor([[2, -1], [-1, 16]], dtype=torch.double)
    adamw = made_up_sweep(("Adam", "Euclidean"))
    stage = Stage(made_up_sweep(), adamw, [Slopes(measured, adamw.products)] * 8)
    page = write_probe_report(tmp_path / "new", "run", "make it", {"early": stage})
    folder = tmp_path / "new"
    assert (folder / "run.md").read_text(encoding="utf-8") == page
    assert "`make it`" in page
    assert "- early: up to η = 1.0e-03" in page
    assert "| early | 1 | 0.5 | 0.25 | 1 | 2 | -0.5 | -0.354 | 0.707 | 0.25 to 2 |" in page
    assert "Slopes are means over 8 batches" in page
    assert "| early | Euclidean | 39% | 39% | ×2.000 | 0.177 |" in page
    pictures = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert sorted(pictures) == sorted(path.name for path in folder.glob("*.png"))
    assert len(pictures) == 3


def test_the_command_trains_and_probes_and_reuses_the_run(tmp_path):
    given = arguments(settings(tmp_path, lambda_rule="adaptive"))
    command = [str(SCRIPT), *given, "--report_dir", str(tmp_path / "report")]
    first = run_python(*command)
    assert first.returncode == 0, first.stderr[-2000:]
    assert (tmp_path / "report" / "out.md").read_text(encoding="utf-8").strip() in first.stdout
    for stage in (2, 6, 12):
        assert f"- step {stage}: up to η = " in first.stdout
    trained = tmp_path / "out" / "probe" / "model.safetensors"
    written = trained.stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"steps \[5\] have no checkpoint"):
        main([*command[1:], "--steps", "4", "5"])
    assert trained.stat().st_mtime_ns == written
