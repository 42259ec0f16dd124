# SPDX-License-Identifier: MIT
"""Sensitivities for the terminal."""

from __future__ import annotations

from rich.table import Table

from bitwright.scheme import Precision
from bitwright.sensitivity import SensitivityTable

WIDTHS = (8, 4, 2)


def sensitivity_table(table: SensitivityTable) -> Table:
    """One row for each layer: its trace with standard error, and the expected loss at some widths."""
    model = table.model if table.output is None else f"{table.model}, output {table.output}"
    title = f"{model}, {table.metric} for {table.task} on {table.batch} images of {table.data}"
    shown = Table(title=title, title_justify="left")
    shown.add_column("Layer")
    widths = [bits for bits in WIDTHS if all(bits in entry.perturbation for entry in table.layers)]
    # Eigenvalues come with a bound, traces with a standard error.
    figures = ("Eigenvalue", "± residual") if table.metric == "top_eigenvalue" else ("Mean trace", "± standard error")
    for heading in ("Weights", *figures, "Probes", *(f"Loss at W{bits}" for bits in widths)):
        shown.add_column(heading, justify="right")
    for entry in table.layers:
        losses = [f"{entry.loss_increase(Precision(bits, 8)):.3g}" for bits in widths]
        mark = "" if entry.converged else " (not converged)"
        error = f"{entry.mean_trace_standard_error():.2g}{mark}"
        shown.add_row(
            entry.layer, f"{entry.parameters:,}", f"{entry.mean_trace():.4g}", error, f"{entry.probes}", *losses
        )
    return shown
