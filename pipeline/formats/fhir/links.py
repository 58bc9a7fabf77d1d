"""Links that a server gives, as targets below its base address."""

from urllib.parse import urlsplit


def below(base_url: str, url: str) -> str | None:
    """What of a link is below the base; None for a link elsewhere. Its host is never asked: it would get our token.

    Behind a proxy a server often writes links with another host than it is reached by, but with the same path.
    """
    path, base = urlsplit(url), urlsplit(base_url)
    if path.path.rstrip("/") == base.path.rstrip("/"):
        rest = ""
    elif path.path.startswith(base.path.rstrip("/") + "/"):
        rest = path.path[len(base.path.rstrip("/")) + 1 :]
    elif not path.scheme and not path.netloc:
        rest = path.path.lstrip("/")
    else:
        return None
    return f"{rest}?{path.query}" if path.query else rest
