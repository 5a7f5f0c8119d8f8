import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from camhelpers.show.charts import COLOURS, forests, gate_chart, line_chart


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
    assert said[:2] == ["0.250", "0.040 ahead of centre"] and len(said) == 6
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


def test_the_band_of_shares_stays_in_0_to_1_and_constants_have_none():
    table = pd.DataFrame({0: [0.0, 0.0, 0.0, 0.0], 1: [0.9, 1.0, 1.0, 0.99]})
    axis = line_chart({"share": table}, ["red"]).axes[0]
    band = axis.collections[0].get_paths()[0].vertices
    assert set(band[band[:, 0] == 0][:, 1]) == {0.0} and 0.95 < band[:, 1].max() <= 1
    plt.close(axis.figure)


def test_forests_have_a_panel_a_line_and_a_colour_each_and_are_pale_without_evidence():
    rows = pd.DataFrame([("A", "one", "near", 0.02, 0.01, 0.03, "pass"), ("A", "two", "far", -0.01, -0.02, 0, "fail"),
                         ("B", "two", "near", 0.5, 0.4, 0.6, "pass")])  # fmt: skip
    rows.columns = ["panel", "label", "way", "difference", "low", "high", "gate"]
    figure = forests(rows, {"near": "red", "far": "blue"}, "Title", xlabel="change", margin=0.005)
    first, second = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"] and figure.get_suptitle() == "Title"
    assert [text.get_text() for text in first.get_yticklabels()] == ["one", "two"]
    dots = [(*line.get_xdata(), round(line.get_ydata()[0]), line.get_color(), line.get_alpha()) for line in first.lines]
    assert dots[:2] == [(0.02, 0, "red", 1.0), (-0.01, 1, "blue", 0.3)]
    assert np.allclose(second.collections[0].get_segments()[0][:, 0], [0.4, 0.6])
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["near", "far", "within the margin of 0.005", "pale: no evidence"]
    plt.close(figure)
