"""The table of a data set: no row is lost to another one's quote."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_core.sources.table import Table

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


def test_a_cell_without_end_spoils_its_row_alone():
    table = Table((HEADER + "7,Red," + "x" * 200_000 + "\n8,Blue,Tie\n").encode())
    assert [(row.id, row.fault[:6]) for row in table.rows] == [("7", "no CSV"), ("8", "")]


def test_a_stray_quote_in_the_middle_costs_no_cell():
    text = HEADER + '7,"Red,Shirt\n8,"Blue,12" Doll\n9,Grey","Shirt, long"\n10,Black,Tie\n'
    rows = Table(text.encode()).rows
    assert [(row.number, row.id, row.fault) for row in rows] == [
        (2, "7", ""), (3, "8", ""), (4, "9", ""), (5, "10", "")
    ]  # fmt: skip
    assert [row.cells["baseColour"] for row in rows] == ["Red", "Blue", 'Grey"', "Black"]


def test_a_row_whose_quotes_cannot_be_told_apart_says_so():
    text = HEADER + '7,"Red,Shirt,long,x\n8,Blue,Tie\n'
    assert [(row.number, row.fault) for row in Table(text.encode()).rows] == [
        (2, "quotes that don't match"), (3, "")
    ]  # fmt: skip


def test_a_lone_quote_swallows_no_short_row():
    text = HEADER + '7,Red,"Kids 12\n8,Blue\n9\n10,Grey,Tie\n11,Black\n'
    rows = Table(text.encode()).rows
    assert [(row.number, row.id) for row in rows] == [
        (2, "7"), (3, "8"), (4, "9"), (5, "10"), (6, "11")
    ]  # fmt: skip


@pytest.mark.parametrize("delimiter", [";", "\t", ", ", " ; "])
def test_cells_may_be_separated_as_spreadsheets_do(delimiter):
    text = (HEADER + '7,Red,"Shirt, ""long"""\n').replace(",", delimiter)
    name = 'Shirt, "long"'.replace(",", delimiter)
    assert rows_of(text) == [(2, "7", name)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_every_common_encoding_is_understood(encoding):
    row = Table((HEADER + "7,Türkis,Größe\n8,Blue,Tie\n").encode(encoding)).rows[0]
    assert (row.id, row.cells["baseColour"]) == ("7", "Türkis")


def test_one_line_in_another_encoding_spoils_no_other():
    contents = (HEADER + "7,Türkis,Ä\n").encode() + "8,Türkis,Ä\n".encode("cp1252")
    assert [row.cells["baseColour"] for row in Table(contents).rows] == ["Türkis"] * 2


def test_line_ends_may_differ():
    text = HEADER + "7,Red,Shirt\r\n8,Blue,Tie\r9,Grey,Cap\n\r\n10,Black,Cap\u2028\u0085\n"
    assert [row.id for row in Table(text.encode()).rows] == ["7", "8", "9", "10"]


CELLS = st.text(st.sampled_from('ab "'), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
def test_no_quote_costs_a_row_that_is_not_reported(cells):
    """Quotes anywhere, with no meaning: each line is a row, or says what is wrong with it."""
    lines = [f"{number},{color},{name}\n" for number, (color, name) in enumerate(cells)]
    rows = Table((HEADER + "".join(lines)).encode()).rows
    assert [(row.number, row.id) for row in rows] == [
        (number + 2, str(number)) for number in range(len(lines))
    ]


# A line of a name that has as many commas as a row is taken for one.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=","), max_size=8)


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_a_well_formed_table_reads_as_it_was_written(cells, end):
    file = io.StringIO()
    written = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
    written.writerow(["id", "baseColour", "productDisplayName"])
    written.writerows((number, *texts) for number, texts in enumerate(cells))
    rows = Table(file.getvalue().encode()).rows

    def unified(text):
        return text.replace("\r\n", "\n").replace("\r", "\n").strip()

    assert [(row.id, *list(row.cells.values())[1:]) for row in rows] == [
        (str(number), *map(unified, texts)) for number, texts in enumerate(cells)
    ]


def test_an_empty_file_has_no_columns():
    assert Table(b"").columns == []
