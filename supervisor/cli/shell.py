"""Commands about the program itself: version and shell completion."""

from __future__ import annotations

import click

from supervisor import __version__
from supervisor.cli.common import json_option, socket_option


@click.command()
@json_option
def version(*, as_object: bool) -> None:
    """Print the version of this program (`stockade status` has that of the service).

    \b
    Example:
      stockade version --json
    """
    from supervisor.cli.show import emit

    emit({"version": __version__}, f"stockade {__version__}", as_object=as_object)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@socket_option
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell: commands, options, ids of runs and sessions.

    \b
    Examples:
      stockade completion bash | sudo tee /usr/share/bash-completion/completions/stockade
      stockade completion zsh > "${fpath[1]}/_stockade"
      stockade completion fish > ~/.config/fish/completions/stockade.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, "stockade", "_STOCKADE_COMPLETE").source())
