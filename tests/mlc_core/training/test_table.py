"""The table of a data set: no row is lost to another one's quote."""

import pytest

from mlc_core.training.table import Table

HEADER = "id,baseColour,productDisplayName\n"


def rows_of(text):
    return [(row.number, row.id, row.cells["productDisplayName"])
            for row in Table(text.encode()).rows]  # fmt: skip


def test_rows_are_numbered_as_lines_of_the_file():
    assert rows_of(HEADER + "7,Red,Shirt\n\n8,Blue,Tie\n") == [(2, "7", "Shirt"), (4, "8", "Tie")]


def test_a_lone_quote_spoils_no_other_row():
    text = HEADER + '7,Red,"Kids 12 in Doll\n8,Blue,Tie\n9,Grey,"Shirt, long"\n'
    assert rows_of(text) == [
        (2, "7", "Kids 12 in Doll"),
        (3, "8", "Tie"),
        (4, "9", "Shirt, long"),
    ]


def test_an_inch_sign_is_part_of_a_name():
    assert rows_of(HEADER + '7,Red,12" Doll\n8,Blue,Tie\n') == [
        (2, "7", '12" Doll'),
        (3, "8", "Tie"),
    ]


def test_a_name_over_several_lines_is_one_cell():
    text = HEADER + '7,Red,"Shirt\nmade of ""cotton"", long\n"\n8,Blue,Tie\n'
    assert rows_of(text) == [(2, "7", 'Shirt\nmade of "cotton", long'), (5, "8", "Tie")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_end_of_line_is_understood(end):
    text = (HEADER + "7,Red,Shirt\n8,Blue,Tie\n").replace("\n", end)
    assert rows_of(text) == [(2, "7", "Shirt"), (3, "8", "Tie")]


def test_a_row_that_is_too_short_has_empty_cells():
    assert rows_of(HEADER + "7,Red\n") == [(2, "7", "")]


def test_a_byte_order_mark_and_spaces_are_no_part_of_a_cell():
    table = Table(("\ufeff" + HEADER + " 7 , Red ,Shirt\n").encode())
    assert table.columns[0] == "id"
    assert table.rows[0].id == "7"
    assert table.rows[0].cells["baseColour"] == "Red"


def test_a_cell_without_end_is_no_csv():
    with pytest.raises(ValueError, match="field larger"):
        Table((HEADER + "7,Red," + "x" * 200_000).encode())


def test_an_empty_file_has_no_columns():
    assert Table(b"").columns == []
