"""degrpo.lifecycle.parts: damage inside a page is found when the rows are read."""

import pyarrow as pa
import pytest

from common.errors import CheckpointError
from degrpo.lifecycle.parts import PartFolder, list_parts, read_part

SCHEMA = pa.schema([pa.field("seq", pa.int64(), nullable=False), pa.field("text", pa.string())])


def test_checksums_find_a_flipped_bit(tmp_path):
    folder = PartFolder(tmp_path, SCHEMA)
    rows = [{"seq": i, "text": f"response {i} {'abcdefgh' * 9}"} for i in range(50)]
    path = folder.write(rows, step=0)
    (part,) = list_parts(tmp_path, SCHEMA)
    assert read_part(part).to_pylist() == rows

    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    (part,) = list_parts(tmp_path, SCHEMA)  # the footer is whole
    with pytest.raises(CheckpointError, match=path.name):
        read_part(part)


def test_a_part_is_its_step_and_rows(tmp_path):
    folder = PartFolder(tmp_path, SCHEMA)
    folder.write([{"seq": 0, "text": "a"}, {"seq": 1, "text": None}], step=7)
    folder.write([{"seq": 2, "text": "c"}], step=9)
    parts = list_parts(tmp_path)
    assert [(p.step, p.first, p.last, p.num_rows) for p in parts] == [(7, 0, 1, 2), (9, 2, 2, 1)]
    assert folder.next_seq == 3
    assert folder.last_step == 9
