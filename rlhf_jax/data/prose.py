"""Running text out of marked-up documentation: docstrings in the styles in use, Markdown and reStructuredText."""

import re

# Sections of a docstring that are lists, code or bookkeeping; the others (Notes, Warnings, ...) are prose.
_DROPPED = re.compile(
    r"((other|keyword|optional|class|type|input|output|call|basic|example|usage|module|public|see|routine) )?"
    r"(arg|argument|parameter|param|keyword|input|output|return|yield|raise|warn|receive|attribute|method|property|"
    r"properties|example|usage|reference|function|class|classe|field|constant|variable|option|default|shape|signature|"
    r"call|author|citation|bibliography|license|copyright|todo|content|listing|also)s?:*",
    re.IGNORECASE,
)
_PROSE_DIRECTIVES = frozenset({"note", "warning", "important", "tip", "caution", "attention", "hint"})

_UNDERLINE = re.compile(r"([=~^*#+`\"'.:_-])\1{2,}$")
_TABLE = re.compile(r"[|+].*[|+]$|[=-]{2,}( +[=-]{2,})+$|\[[^\]]+\]:( |$)")  # or what a Markdown link refers to
_DIRECTIVE = re.compile(r"\.\. +(?:([\w:-]+)::)?\s*(.*)|\.\.$")
_FIELD = re.compile(
    r"[:@](param|parameter|arg|type|returns?|rtype|raises?|keyword|key|[ic]?var|vartype|yields?|see|since|author|"
    r"copyright|license|date|organization|status|todo)\b[^:]*:|(Args|Arguments|Parameters|Returns?|Yields|Raises): "
)
_FENCE = re.compile(r"(```+|~~~+)")
_MARKER = re.compile(r"^(> ?(\[!\w+\])?|[-*•] +|\(?\w{1,2}[.)] +)")
_LINK = re.compile(r"\[[^\[\]]*\](\([^()]*\)|\[[^\[\]]*\])|`[^`]*`_+")

_INLINE = [
    (re.compile(r"Read more in the :ref:`User Guide <\w+>`\."), " "),
    (re.compile(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])"), " "),  # Markdown image
    (re.compile(r"\[([^\[\]]*)\]\([^()]*(\([^()]*\))?[^()]*\)"), r"\1"),  # Markdown link
    (re.compile(r"\[([^\[\]]+)\]\[[^\[\]]*\]"), r"\1"),  # Markdown link by reference
    (re.compile(r"\[`~?([^`\]]+)`\]"), r"\1"),  # [`Class`]
    (re.compile(r":[a-z:+-]+:`[~!]?\.?([^`<]+?)\s*(?:<[^`>]*>)?`"), r"\1"),  # reStructuredText role
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # reStructuredText link
    (re.compile(r"\|[\w .-]+\|_?"), " "),  # reStructuredText substitution
    (re.compile(r"</?[a-zA-Z][^<>]*>"), " "),  # HTML tag
    (re.compile(r"<?\bhttps?://[^\s>)\]]*[^\s>)\].,;:]>?"), " "),
    (re.compile(r"\[[\w., -]+\]_|(?<=\s)\[\d+\]"), " "),  # citation
    (re.compile(r"(?<=\w)_(?=[\s.,;:!?)]|$)"), ""),  # reStructuredText reference
    (re.compile(r"`+[~!]?\.?([^`]*?)`+_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,3}(?=\S)([^*]*[^\s*])\*{1,3}(?![\w*])"), r"\1"),  # emphasis
    (re.compile(r"&(nbsp|amp|lt|gt|quot|#\d+);"), " "),
    (re.compile(r"\\([*_`<>|\\])"), r"\1"),
    (re.compile(r"\(\s*\)|\[\s*\]"), " "),  # what an image or a URL leaves behind
    (re.compile(r"::(?=\s|$)"), ":"),
    (re.compile(r"\s+([.,;:!?)])(?=\s|$)"), r"\1"),
]


def plain(text: str) -> str:
    """One line of text without inline markup: links, roles, emphasis, tags and citations leave their words behind."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def prose(text: str) -> str:
    """The running text of a docstring body or a README, on one line, in its order.

    Left out: code and doctests, tables, headings, directives other than notes and warnings, field lists, and the
    sections that list parameters, results, examples or references.
    """
    lines = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).expandtabs(4).split("\n")
    kept: list[str] = []
    fence = ""  # the mark that ends the code block
    deeper_than = -1  # lines indented deeper are left out while this is not negative
    in_dropped_section = in_doctest = False
    for number, line in enumerate(lines):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        following = lines[number + 1].strip() if number + 1 < len(lines) else ""
        if fence:
            fence = "" if stripped.startswith(fence) else fence
            continue
        if not stripped:
            in_doctest = False
            kept.append("")
            continue
        if deeper_than >= 0 and indent > deeper_than:
            continue
        deeper_than = -1
        if mark := _FENCE.match(stripped):
            fence = mark.group()
            continue
        if _UNDERLINE.match(stripped):
            continue
        underlined = _UNDERLINE.match(following) and len(following) >= min(len(stripped), 4)
        if underlined or stripped.startswith("#"):
            in_dropped_section = bool(_DROPPED.fullmatch(stripped.strip("# ")))
            continue
        if in_dropped_section or in_doctest or _TABLE.match(stripped):
            continue
        if stripped.startswith((">>>", "In [", "$ ")):
            in_doctest = True
        elif _FIELD.match(stripped) or (stripped.endswith(":") and _DROPPED.fullmatch(stripped)):
            deeper_than = indent
        elif directive := _DIRECTIVE.match(stripped):
            if directive.group(1) in _PROSE_DIRECTIVES:
                kept.append(directive.group(2))
            else:
                deeper_than = indent
        else:
            if stripped.endswith("::"):
                deeper_than = indent
            kept.append(_MARKER.sub("", stripped))
    paragraphs = "\n".join(kept).split("\n\n")
    return " ".join(filter(None, map(plain, filter(_reads_as_text, paragraphs))))


def _reads_as_text(paragraph: str) -> bool:
    """True if a paragraph is mostly words: indented code and lists of names, numbers or links are not."""
    letters = sum(character.isalpha() or character in " \n" for character in paragraph)
    return len(_LINK.sub("", paragraph).split()) >= 4 and letters >= 0.8 * len(paragraph)
