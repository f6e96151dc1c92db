"""Claims about multipart/form-data; the standard library's mail parser is the second reader."""

import base64
import contextlib
import email

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import MalformedRequest, RequestTooLarge
from deployments.http.form import parts

TYPE = b"multipart/form-data; boundary=B"
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\r\n--\r\n\r\n\xff\xd9"


def read(body, content_type=TYPE):
    return [(part.name, part.file_name, part.content()) for part in parts(body, content_type)]


def form(*written, end=b"\r\n", boundary=b"B", close=b"--\r\n"):
    """A form of parts that are written out: headers, blank line and content."""
    lines = b"".join(b"--" + boundary + end + part + end for part in written)
    return lines + b"--" + boundary + close


def part(disposition, content=JPEG, more=b"", end=b"\r\n"):
    return b"Content-Disposition: form-data; " + disposition + end + more + end + content


def test_a_part_is_its_field_its_file_name_and_its_content():
    body = form(part(b'name="image"; filename="p.jpg"'), part(b'name="note"', b"red"))
    assert read(body) == [("image", "p.jpg", JPEG), ("note", None, b"red")]


@pytest.mark.parametrize(
    "content_type",
    [b'multipart/form-data; boundary="B"', b"multipart/form-data;boundary=B",
     b"multipart/form-data; charset=utf-8; Boundary = B ; x=y",
     b'Multipart/Form-Data; BOUNDARY="B";'],
)  # fmt: skip
def test_a_boundary_is_declared_in_many_ways(content_type):
    assert read(form(part(b'name="image"')), content_type) == [("image", None, JPEG)]


@pytest.mark.parametrize(
    ("declared", "boundary"),
    [(b'"a b:/?(c)"', b"a b:/?(c)"), (b'"a;b"', b"a;b"), (b"=_Part_1_2.3", b"=_Part_1_2.3"),
     (b"----WebKitFormBoundary7MA4Y", b"----WebKitFormBoundary7MA4Y"), (b"a:b/c=d", b"a:b/c=d"),
     (b"x" * 200, b"x" * 200), (rb'"a\"b"', b'a"b')],
)  # fmt: skip
def test_a_boundary_is_any_text(declared, boundary):
    body = form(part(b'name="image"'), boundary=boundary)
    assert read(body, b"multipart/form-data; boundary=" + declared) == [("image", None, JPEG)]


@pytest.mark.parametrize(
    ("disposition", "name", "file_name"),
    [
        (b'name="image"; filename*=utf-8\'\'Gr%C3%B6%C3%9Fe%201.jpg', "image", "Größe 1.jpg"),
        (b"filename*=UTF-8'de'it%27s.jpg; name=image", "image", "it's.jpg"),
        (b'name="image"; filename="plain.jpg"; filename*=utf-8\'\'%C3%B6.jpg', "image", "ö.jpg"),
        (b"name=image;filename=p.jpg", "image", "p.jpg"),
        (b'Name = "image" ; FileName="p.jpg";', "image", "p.jpg"),
        (b'filename="a; name=x.jpg"; name="image"', "image", "a; name=x.jpg"),
        (b'filename="a\\"b.jpg"; name="image"', "image", 'a"b.jpg'),
        (b'name="image"; filename="C:\\\\photos\\\\p.jpg"', "image", "C:\\photos\\p.jpg"),
        ('name="größe"; filename="写真.jpg"'.encode(), "größe", "写真.jpg"),
        (b'name="image";\r\n filename="folded.jpg"', "image", "folded.jpg"),
        (b'name="image"; filename=""', "image", ""),
        (b'name="image"; filename="\xff.jpg"', "image", "\ufffd.jpg"),
        (b'filename="p.jpg"', "", "p.jpg"),
    ],
)  # fmt: skip
def test_a_disposition_names_field_and_file(disposition, name, file_name):
    assert read(form(part(disposition))) == [(name, file_name, JPEG)]


def test_what_comes_before_the_first_boundary_and_after_the_last_is_skipped():
    body = form(part(b'name="image"'))
    for before in (b"\r\n", b"This is MIME.\r\n", b"--Bother\r\n--B2\r\n", b"x--B\n\n"):
        for after in (b"", b"That was it.\r\n", b"\r\n" + body):
            assert read(before + body + after) == [("image", None, JPEG)]


@pytest.mark.parametrize(
    "content", [b"", b"\r", b"\n", b"\r\n", b"\n\r", b"x--B", b"--BB--\r\n--Bx\r\n"]
)
def test_a_content_keeps_its_line_ends_and_what_only_looks_like_a_boundary(content):
    assert read(form(part(b'name="image"', content))) == [("image", None, content)]


@pytest.mark.parametrize("content", [JPEG, b"", b"\r", b"ends in\r"])
def test_lines_may_end_in_lf_alone(content):
    body = form(part(b'name="image"', content, end=b"\n"), end=b"\n", close=b"--\n")
    assert read(body) == [("image", None, content)]


@pytest.mark.parametrize(
    "close", [b"--", b"--\r\n", b"-- \r\n", b"--\n", b"", b"\r\n", b"\r\n\r\n"]
)
def test_the_last_boundary_may_lack_its_line_end_or_its_dashes(close):
    assert read(form(part(b'name="image"'), close=close)) == [("image", None, JPEG)]


def test_a_boundary_may_be_followed_by_spaces():
    body = form(part(b'name="image"')).replace(b"--B\r\n", b"--B \t\r\n")
    assert read(body) == [("image", None, JPEG)]


@pytest.mark.parametrize("encoding", [b"binary", b"8bit", b"7BIT", b" Binary "])
def test_an_encoding_that_changes_nothing_is_taken(encoding):
    more = b"content-transfer-encoding:" + encoding + b"\r\n"
    assert read(form(part(b'name="image"', more=more))) == [("image", None, JPEG)]


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [(b"base64", base64.b64encode(JPEG)), (b"BASE64", base64.encodebytes(JPEG)),
     (b"quoted-printable", b"".join(b"=%02X" % byte for byte in JPEG))],
)  # fmt: skip
def test_an_encoded_content_is_decoded(encoding, encoded):
    more = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    assert read(form(part(b'name="image"', encoded, more))) == [("image", None, JPEG)]


@pytest.mark.parametrize(
    ("encoding", "says"), [(b"x-uuencode", "'x-uuencode'"), (b"base64", "not the base64")]
)
def test_a_content_that_cannot_be_decoded_is_malformed(encoding, says):
    more = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    with pytest.raises(MalformedRequest, match=says):
        read(form(part(b'name="image"', b"not *base64*", more)))


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b"", TYPE, "no line of the body"),
        (b"--C\r\n\r\n\r\n--C--", TYPE, "no line of the body"),
        (form(part(b'name="image"')), b"multipart/form-data", "has no boundary"),
        (form(part(b'name="image"')), b"multipart/form-data; boundary=", "has no boundary"),
        (form(part(b'name="image"'), close=b"")[:-3], TYPE, "without its last boundary"),
        (form(part(b'name="image"'))[:60], TYPE, "without its last boundary"),
        (form(b"no header"), TYPE, "no blank line"),
    ],
)
def test_what_is_no_whole_form_is_malformed(body, content_type, says):
    with pytest.raises(MalformedRequest, match=says):
        read(body, content_type)


@pytest.mark.parametrize(
    "body",
    [
        form(*[part(b"name=a", b"")] * 7000),
        form(*[b"\r\n"] * 70_000),
        form(part(b'name="image"', b"\n--Bx" * 70_000)),
        form(part(b'name="image"', more=b"X: y\r\n" * 50_000)),
        form(part(b"a=b; " * 60_000)),
        form(b"X: y\r\n" * 50_000),
    ],
    ids=["parts", "empty parts", "almost boundaries", "headers", "parameters", "no blank line"],
)
def test_a_form_that_is_mostly_boundaries_and_headers_is_too_large(body):
    with pytest.raises(RequestTooLarge, match="boundaries and headers of the form have more than"):
        read(body)


def test_a_form_may_have_a_thousand_parts():
    assert len(read(form(*[part(b'name="images"; filename="photo.jpg"')] * 1000))) == 1000


BOUNDARIES = st.from_regex(r"[-0-9A-Za-z'()+_,./:=?]{8,60}", fullmatch=True)
NAMES = st.sampled_from(["image", "images", "note", "a b", "x; name=y", "q=1", "C:"])
TYPES = st.sampled_from([None, b"image/jpeg", b"image/png", b"application/octet-stream"])
ENCODINGS = st.sampled_from([None, b"binary", b"base64"])


@st.composite
def written_parts(draw):
    """The headers of a part in some order and case, and its content as it is sent."""
    disposition = f'form-data; name="{draw(NAMES)}"'
    if draw(st.booleans()):
        disposition += f'; filename="{draw(NAMES)}.jpg"'
    content, encoding, kind = draw(st.binary()), draw(ENCODINGS), draw(TYPES)
    headers = [(b"Content-Disposition", disposition.encode())]
    headers += [(b"Content-Type", kind)] if kind else []
    headers += [(b"Content-Transfer-Encoding", encoding)] if encoding else []
    case = draw(st.sampled_from([bytes.upper, bytes.lower, bytes.title]))
    lines = [case(name) + b": " + value for name, value in draw(st.permutations(headers))]
    return lines, base64.encodebytes(content) if encoding == b"base64" else content


@given(
    written=st.lists(written_parts(), min_size=1, max_size=5),
    boundary=BOUNDARIES,
    end=st.sampled_from([b"\r\n", b"\n"]),
    quoted=st.booleans(),
    preamble=st.sampled_from([b"", b"\r\n", b"MIME\r\n", b"--\n"]),
    close=st.sampled_from([b"--", b"--\r\n", b"--\r\nepilogue"]),
)
def test_every_form_reads_as_the_mail_parser_reads_it(
    written, boundary, end, quoted, preamble, close
):
    if end == b"\n":  # the mail parser takes a CR before the LF for a part of the line end
        written = [(lines, content.rstrip(b"\r")) for lines, content in written]
    sent = [end.join([*lines, b"", content]) for lines, content in written]
    body = preamble + form(*sent, end=end, boundary=boundary.encode(), close=close)
    content_type = f'multipart/form-data; boundary="{boundary}"'.encode()
    mail = email.message_from_bytes(b"Content-Type: " + content_type + b"\n\n" + body)
    if not quoted:
        content_type = content_type.replace(b'"', b"")
    assert read(body, content_type) == [
        (
            each.get_param("name", header="content-disposition"),
            each.get_filename(),
            each.get_payload(decode=True),
        )
        for each in mail.get_payload()
    ]
    assert len(mail.get_payload()) == len(written)


TOKENS = [
    b"--B",
    b"--B--",
    b"\r\n",
    b"\n",
    b"\r",
    b"name=image",
    b"Content-Disposition:",
    b";",
    b'"',
    b" ",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join))
def test_no_body_is_more_than_malformed(body):
    with contextlib.suppress(MalformedRequest):
        read(b"--B\r\n" + body)
