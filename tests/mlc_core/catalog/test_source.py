"""Claims about a shop's table of products, with what real ones have wrong."""

import zipfile

import pytest

from mlc_core.catalog.source import opened_source
from mlc_core.errors import DataSetError


def read(path):
    lines = []
    with opened_source(path, lines.append) as source:
        return list(source.items), lines, [source.read(item.photo) for item in source.items]


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    (folder / "photos").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / f"photos/{name}.jpg").write_bytes(name.encode())
    return folder


def test_a_table_names_photos_and_attributes(shop):
    (shop / "products.csv").write_text(
        "\ufeffSKU;Image;Price;In stock;Brand\n"
        "1;photos/a.jpg;9.5;true;Ünï\n"
        "2;photos/b.jpg;n/a;false;\n"
        "3;photos/c.jpg;on request;TRUE;X\n",
        encoding="utf-8",
    )
    items, lines, photos = read(shop / "products.csv")
    assert photos == [b"a", b"b", b"c"]
    assert [item.row.id for item in items] == ["1", "2", "3"]
    assert items[0].attributes == {"Price": 9.5, "In_stock": True, "Brand": "Ünï"}
    assert items[1].attributes == {"In_stock": False}
    assert lines == ["columns with other names in filters: 'In stock' is In_stock"]


def test_values_that_a_comparison_misses_are_told(shop):
    (shop / "products.csv").write_text(
        "id,path,price\n1,photos/a.jpg,9\n2,photos/b.jpg,ask\n3,photos/c.jpg,7\n"
    )
    assert read(shop / "products.csv")[1] == [
        "price: 1 of 3 values are no numbers, as 'ask'; filters as price<50 leave these out"
    ]


def test_a_table_from_windows_and_a_spreadsheet_is_read_as_it_is_meant(shop):
    (shop / "products.csv").write_text(
        "id;path;price;in_stock;sizes;lot\r\n"
        "1;photos\\a.jpg;12,50;yes;1,299;1\r\n"
        "2;.\\photos\\b.jpg;7;NO;38;0\r\n"
        "3;./photos/c.jpg;-3,5;1;39;1\r\n"
    )
    items, lines, photos = read(shop / "products.csv")
    assert photos == [b"a", b"b", b"c"]
    assert [item.attributes["price"] for item in items] == [12.5, 7.0, -3.5]
    assert [item.attributes["in_stock"] for item in items] == [True, False, True]
    assert [item.attributes["lot"] for item in items] == [1.0, 0.0, 1.0]
    assert items[0].attributes["sizes"] == "1,299"  # or 1299: the table does not say
    assert lines == [
        "price: cells as '12,50' are read as numbers with a decimal comma",
        "in_stock: cells as 'yes' are read as true or false",
        "sizes: 1 of 3 values are no numbers, as '1,299'; filters as sizes<50 leave these out",
    ]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["12,50", "7,5", "9"], [12.5, 7.5, 9.0]),
        (["38,40", "36,38", "40,42"], [38.4, 36.38, 40.42]),
        (["38,40", "S", "M"], ["38,40", "S", "M"]),
        (["38,40", "38", "36,38,40"], ["38,40", 38.0, "36,38,40"]),
        (["12,50", "9", "1,299"], ["12,50", 9.0, "1,299"]),
        (["12,50", "9", "ask, please"], ["12,50", 9.0, "ask, please"]),
        (["12,50", "9", "ask"], [12.5, 9.0, "ask"]),
    ],
)
def test_a_comma_is_a_decimal_one_only_in_a_column_of_numbers(shop, cells, values):
    rows = "".join(f"{n};photos/a.jpg;{cell}\n" for n, cell in enumerate(cells))
    (shop / "products.csv").write_text(f"id;path;value\n{rows}")
    items, lines, _ = read(shop / "products.csv")
    assert [item.attributes["value"] for item in items] == values
    told = "value: cells as '12,50' are read as numbers with a decimal comma"
    assert (told.replace("12,50", cells[0]) in lines) == isinstance(values[0], float)


def test_a_directory_or_a_zip_may_hold_the_table(shop, tmp_path):
    (shop / "products.csv").write_text("id,photo\n1,photos/b.jpg\n")
    packed = tmp_path / "shop.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in shop.rglob("*.*"):
            archive.write(file, f"export/{file.relative_to(shop).as_posix()}")
    for path in (shop, packed):
        items, _, photos = read(path)
        assert [item.row.id for item in items] == ["1"]
        assert photos == [b"b"]


def test_photos_alone_are_products_named_by_their_files(shop):
    items, _, photos = read(shop)
    assert [(item.row.id, item.attributes) for item in items] == [
        ("photos/a", {}), ("photos/b", {}), ("photos/c", {}),
    ]  # fmt: skip
    assert photos == [b"a", b"b", b"c"]


def test_without_a_column_of_photos_they_are_named_by_the_id(shop):
    (shop / "photos").rename(shop / "images")
    (shop / "styles.csv").write_text("id,baseColour,year\na,Red,2012\n")
    items, _, photos = read(shop)
    assert photos == [b"a"]
    assert items[0].attributes == {"baseColour": "Red", "year": 2012.0}


def test_an_attribute_never_hides_a_label(shop):
    (shop / "products.csv").write_text("id,path,category,color\n1,photos/a.jpg,Sale,Rot\n")
    (item,), lines, _ = read(shop / "products.csv")
    assert item.attributes == {"shop_category": "Sale", "shop_color": "Rot"}
    assert lines == [
        "columns with other names in filters: 'category' is shop_category, 'color' is shop_color"
    ]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "there is nothing at"),
        (lambda path: path.mkdir(), "no photos and no table in it; name a directory, a zip, or"),
        (lambda path: path.write_bytes(b"what"), "neither a directory nor a zip"),
    ],
)
def test_what_holds_no_products_is_refused(tmp_path, make, says):
    make(tmp_path / "it")
    with pytest.raises(DataSetError, match=says):
        read(tmp_path / "it")


def test_a_table_without_ids_is_refused_and_its_columns_named(shop):
    (shop / "products.csv").write_text("name,path\nx,photos/a.jpg\n")
    with pytest.raises(DataSetError, match="lacks a column of ids; it has name, path, and needs"):
        read(shop / "products.csv")
