import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from camhelpers.show.charts import COLOURS, forest, gate_chart, line_chart


def judged(verdicts):
    rows = [("deletion", baseline, "layer4", method, 30, 0.25, "centre", 0.04, 0.01, 0.07, verdict)
            for (method, baseline), verdict in verdicts.items()]  # fmt: skip
    names = "metric baseline layer method n mean weakest_against difference low high gate"
    return pd.DataFrame(rows, columns=names.split())


def test_the_gates_chart_has_a_cell_for_each_score_and_method_in_the_verdicts_colour():
    table = judged({("gradcam", "mean"): "pass", ("layercam", "mean"): "fail", ("gradcam", "black"): "undecided"})
    figure = gate_chart(table, "A title")
    axis = figure.axes[0]
    assert [patch.get_facecolor() for patch in axis.patches] == [
        plt.matplotlib.colors.to_rgba(COLOURS[name]) for name in ("pass", "fail", "undecided")
    ]
    said = [text.get_text() for text in axis.texts]
    assert said[:2] == ["0.250", "+0.040 against centre"] and len(said) == 6
    assert [text.get_text() for text in axis.get_xticklabels()] == ["Grad-CAM", "LayerCAM"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["Deletion ↓, mean", "Deletion ↓, black"]
    assert len(figure.legends[0].get_texts()) == 3
    plt.close(figure)


def test_a_line_for_each_table_with_its_band():
    tables = {"one": pd.DataFrame({0: [1, 2, 4], 1: [3, 4, 8]}), "other": pd.DataFrame({0: [0, 0, 1], 1: [1, 1, 5]})}
    axis = line_chart(tables, ["red", "blue"], "Title", ticks=["a", "b"]).axes[0]
    assert np.allclose([line.get_ydata() for line in axis.lines], [[7 / 3, 5], [1 / 3, 7 / 3]])
    assert len(axis.collections) == 2 and [text.get_text() for text in axis.get_xticklabels()] == ["a", "b"]
    plt.close(axis.figure)


def test_a_forest_is_pale_where_the_gate_does_not_pass():
    rows = pd.DataFrame([(0.02, 0.01, 0.03, "pass"), (-0.01, -0.02, 0.0, "fail")])
    rows.columns = ["difference", "low", "high", "gate"]
    figure = forest(rows, ["one", "other"], margin=0.005)
    tones = [line.get_color() for line in figure.axes[0].lines[:4]]
    assert tones[0] == tones[1] != tones[2] == tones[3] == "#BBBBBB"
    assert np.allclose([line.get_xdata() for line in figure.axes[0].lines[:3:2]], [[0.01, 0.03], [-0.02, 0.0]])
    plt.close(figure)
