"""Settings of a service: flags, or environment variables of the same name.

`--ready-file` is `PALDIA_READY_FILE`, and so on. Each service's `main` declares its own
class on this base and reads it; nothing else reads settings.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError


class ServiceSettings(BaseSettings):
    """What every service can be told."""

    model_config = SettingsConfigDict(
        env_prefix="PALDIA_",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        extra="ignore",
    )

    insecure: bool = Field(
        default=False,
        description="listen on addresses other machines can reach, in plaintext; "
        "whoever reaches them can run code here",
    )
    ready_file: Path | None = Field(
        default=None, description="file to write addresses to, as JSON, once the service serves"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that is logged"
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="one JSON object a line, or lines for people"
    )

    @classmethod
    def from_command_line(cls, argv: list[str] | None = None) -> Self:
        """Read flags and environment; wrong usage prints what is wrong and exits with 2."""
        try:
            return CliApp.run(cls, cli_args=sys.argv[1:] if argv is None else argv)
        except (ValueError, SettingsError) as error:
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
            raise SystemExit(2) from error
