from transformers.utils import logging

from verl.trainer.fsdp_dft_trainer.console import quiet


def test_notes_of_verl_are_dropped_and_everything_else_is_printed(capsys, monkeypatch):
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARN")
    with quiet(rank=0):
        print("Monkey patch _flash_attention_forward")
        print("warning: the", end=" ")
        print("layer is unknown\nBefore FSDP, memory allocated (GB): 0.00")
        print("the end", end="")
    print("Monkey patch by somebody else, later")
    assert capsys.readouterr().out == "warning: the layer is unknown\nthe endMonkey patch by somebody else, later\n"


def test_one_rank_draws_progress_bars(monkeypatch):
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARN")
    for rank, draws in ((0, True), (1, False)):
        with quiet(rank):
            assert logging.is_progress_bar_enabled() is draws
        assert logging.is_progress_bar_enabled()


def test_whoever_looks_for_trouble_sees_it_all(capsys, monkeypatch):
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "INFO")
    with quiet(rank=1):
        print("Monkey patch _flash_attention_forward")
        assert logging.is_progress_bar_enabled()
    assert capsys.readouterr().out.startswith("Monkey patch")


def test_an_error_while_it_lasts_loses_no_line(capsys, monkeypatch):
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARN")
    try:
        with quiet(rank=1):
            print("half a line", end="")
            raise KeyError
    except KeyError:
        pass
    assert capsys.readouterr().out == "half a line" and logging.is_progress_bar_enabled()
