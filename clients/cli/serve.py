"""`tidegate site serve FOLDER`: answer with a model version, at the site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from inference.served import Served

__all__ = ["serve", "serve_key"]


def serve(
    folder: Annotated[Path, typer.Argument(help="With a version: `tidegate models fetch` writes it.")],
    site: Annotated[Path, typer.Option(help="The site's file, with a section serve.")] = Path("site.toml"),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Another than site.toml's.")] = None,
    shadow: Annotated[
        Path | None, typer.Option(help="A version that computes each request too, for the log alone.")
    ] = None,
    canary: Annotated[
        Path | None, typer.Option(help="A version that answers --share of the requests.")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the requests, for --canary.")] = 0.1,
    json: Annotated[bool, typer.Option("--json", help="Say as JSON what is served, and where.")] = False,
) -> None:
    """Answer with the version in service until Ctrl-C or SIGTERM; a newer one in FOLDER is taken at once."""
    from clients.site_config import read_site_config
    from contract.errors import InputError
    from contract.transport import read_authority
    from inference.running import Settings, run
    from terminal.logs import log_to

    if shadow is not None and canary is not None:
        raise InputError("a shadow or a canary", where="--canary", remedy="Try one version at a time")
    config = read_site_config(site)
    storage, stated = config.storage.folder, config.serve
    authority = stated.authority or site.parent / "keys" / "ca.pem"
    remedy = "Name the federation's ca.pem as serve.authority in site.toml"
    log_to(config.storage.logs / "inference.log")
    log = stated.log or f"sqlite:///{(storage / 'predictions.db').absolute()}"
    run(
        Settings(
            folder=folder,
            authority=read_authority(authority, error=InputError, remedy=remedy),
            store=storage / "models",
            log=None if log == "none" else log,
            keep_days=stated.keep_days,
            host=stated.host,
            port=stated.port if port is None else port,
            keys=stated.keys,
            certificate=stated.certificate,
            key=stated.key,
            shadow=shadow,
            canary=canary,
            share=share,
            providers=stated.providers,
        ),
        lambda served, address: _say(served, address, json=json),
    )


def serve_key(
    name: Annotated[str, typer.Argument(help="Who gets the key.")],
    keys: Annotated[Path, typer.Option(help="The file that serve.keys names.")] = Path("api-keys.json"),
) -> None:
    """Make an API key for the inference service; it is shown once, and its hash kept."""
    from inference.running import new_key

    print(new_key(keys, name))


def _say(served: Served, address: str, *, json: bool) -> None:
    from terminal.output import print_json, say

    if json:
        found = {"model": served.name, "version": served.version, "engine": served.engine, "url": address}
        print_json(found)
        return
    say(f"'{served.name}' version {served.version} answers at {address} ({served.engine}). Ctrl-C ends it.")
