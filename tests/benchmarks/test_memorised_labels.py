"""What models memorise of wrong labels."""

from benchmarks import memorised_labels


def test_a_run_has_what_the_report_says(monkeypatch):
    monkeypatch.setattr(memorised_labels, "TRAINING", 32)
    monkeypatch.setattr(memorised_labels, "VALIDATION", 8)
    found = memorised_labels.run(0.3, 1)
    assert found.keys() == {"rate", "teacher_epochs", "wrong_labels", "agreements"}
    assert 0 < found["wrong_labels"] < 1
