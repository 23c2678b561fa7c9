"""Tests that foreign text in Markdown is shown literally and has no effect."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fsvfm_jax.host.markdown import markdown_text

GITHUB = MarkdownIt("gfm-like", {"linkify": False})
HOSTILE = (
    "<script>alert(1)</script>",
    "<!-- a comment",
    "[a link](https://example.com)",
    "![a picture](https://example.com/x.png)",
    "[a reference][1]",
    "<https://example.com>",
    "`code`",
    "```",
    "**bold** __bold__ _italic_ ~~gone~~",
    "a | b",
    "a \\| b",
    "\\",
    "&lt;b&gt; &amp; &#60;",
    "$x$ $$y$$",
    "# heading",
    "heading #",
    "line\n# heading\n---\n```\n",
    "\u202egnp.exe",
    "\x1b[31mred",
    "_",
    "a_b_",
)
# These characters have a meaning in Markdown, so they are drawn more often than letters.
TEXT = st.text(st.sampled_from("ab1@ \\`*_[]()<>&|~$#!:/.-+=\"'\n\t{}é") | st.characters())


def shown(document: str) -> list[str]:
    """Returns the texts of all inline tokens; fails if one of them is not plain text."""
    texts = []
    for token in GITHUB.parse(document):
        if token.type == "inline":
            children = [child for child in token.children if child.content != "<!-- -->"]
            assert {child.type for child in children} <= {"text"}, document
            texts.append("".join(child.content for child in children))
        else:
            assert token.type not in ("fence", "code_block", "html_block"), document
    return texts


@given(TEXT)
@example("a" * 499 + "\\`")
def test_what_is_shown_is_the_text(text):
    escaped = markdown_text(text)
    assert "\n" not in escaped and escaped.isprintable()
    line = " ".join(text.split())
    # The text is only text between words, as a heading, and as a cell of a table.
    for document, before, after in ((f"x {escaped} y", "x ", " y"), (f"# {escaped} y", "", " y")):
        (found,) = shown(document)
        if line.isprintable() and len(line) < 400:
            assert found == f"{before}{line}{after}".strip()
    cells = shown(f"| a | b |\n|---|---|\n| {escaped} | y |")
    assert len(cells) == 4 and cells[3] == "y"
    if line.isprintable() and len(line) < 400:
        assert cells[2] == line


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_markup(text):
    html = GITHUB.render(f"see {markdown_text(text)} here")
    assert html.startswith("<p>see ") and html.count("<") == 2, html


@pytest.mark.parametrize(
    "text", ["detector_dfd.pth", "Celeb-DF++", "cc-by-nc-4.0", "n/a (only real)", "FF++ (c23)"]
)
def test_names_stay_readable(text):
    assert markdown_text(text) == text


def test_addresses_do_not_become_links():
    escaped = markdown_text("http://example.com https://example.com www.example.com")
    assert escaped == r"http\://example.com https\://example.com www\.example.com"


@pytest.mark.parametrize("text", ["x@y.com", "mailto:x@y.com", "xmpp:x@y.com/z", "@x", "a@b@c.com"])
def test_addresses_of_mail_are_split(text):
    """Checks addresses of mail, which GitHub turns into links even with backslashes."""
    escaped = markdown_text(text)
    assert escaped.replace("<!-- -->", "") == text
    assert escaped.count("@<!-- -->") == escaped.count("@") == text.count("@")
    assert GITHUB.render(escaped) == f"<p>{escaped}</p>\n"
    assert GITHUB.render(f"- {markdown_text(text + ' <b>')}").count("<b>") == 0


def test_a_long_text_is_cut():
    assert markdown_text("x" * 1000) == "x" * 499 + "…"
    assert markdown_text("x" * 1000, max_chars=10) == "x" * 9 + "…"
