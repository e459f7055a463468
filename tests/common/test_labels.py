import pytest

from common.labels import EMOTIONS, LabelTable


@pytest.mark.parametrize(
    ("text", "asserted", "denied", "cued"),
    [
        ("The man looks happy.", ("happy",), (), ()),
        ("Joyful, almost ECSTATIC", ("happy",), (), ()),
        ("sad at first, then happy", ("sad", "happy"), (), ()),
        ("His anger turns to fear.", ("angry", "fear"), (), ()),
        ("unhappy", ("sad",), (), ()),
        ("The woman is smiling.", (), (), ("happy",)),
        ("She smiles but is sad", ("sad",), (), ("happy",)),
        ("not happy", (), ("happy",), ()),
        ("He does not look very happy", (), ("happy",), ()),
        ("She isn’t sad, she is happy", ("happy",), ("sad",), ()),
        ("not only happy but surprised", ("happy", "surprise"), (), ()),
        ("no emotion", ("neutral",), (), ()),
        ("a man with no beard looks happy", ("happy",), (), ()),
        ("he never looks happy", (), ("happy",), ()),
        ("The happyish madrigal", (), (), ()),
        ("", (), (), ()),
    ],
)
def test_read(text, asserted, denied, cued):
    reading = EMOTIONS.read(text)
    assert (reading.asserted, reading.denied, reading.cued) == (asserted, denied, cued)


def test_the_longest_alias_wins():
    table = LabelTable({"beard": ["bearded"], "clean-shaven": ["no beard"]})
    assert table.read("a man with no beard").asserted == ("clean-shaven",)
    assert table.read("a bearded man").asserted == ("beard",)


def test_exactly_names_a_label_and_nothing_else():
    assert EMOTIONS.exactly("Joyful") == "happy"
    assert EMOTIONS.exactly("looks joyful") is None


def test_an_alias_of_two_labels_is_refused():
    with pytest.raises(ValueError, match="names both"):
        LabelTable({"fear": ["upset"], "sad": ["upset"]})
