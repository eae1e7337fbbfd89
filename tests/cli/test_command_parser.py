import pytest

from yolo_lightning.cli.command_parser import CommandParser
from yolo_lightning.errors import InputError


def parser() -> CommandParser:
    made = CommandParser("draw", "[--colour C]", "Draws.\n\n  line by line", "The end.")
    made.add_argument("--colour")
    return made


def test_the_help_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: yolo-lightning draw [--colour C]\n")
    assert "\n  line by line\n" in printed and printed.endswith("The end.\n")


def test_a_wrong_option_is_one_sentence_and_none_is_meant_by_its_beginning() -> None:
    with pytest.raises(InputError, match=r"unrecognized arguments: --col=red \(see yolo-lightning draw"):
        parser().parse_args(["--col=red"])
