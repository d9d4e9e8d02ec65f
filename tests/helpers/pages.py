"""What an HTML page holds, as a reader of it sees."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Titles of sections, and addresses outside of the page.

    Attributes:
        titles: titles of the sections of the second level.
        links: external links.
    """

    def __init__(self) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.links: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag, attrs):
        self._in_title = tag == "h2"
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("data:", "#")):
                self.links.append(value)

    def handle_data(self, data):
        if self._in_title and data.strip():
            self.titles.append(data.strip())
            self._in_title = False


def read_page(text: str) -> Page:
    page = Page()
    page.feed(text)
    return page
