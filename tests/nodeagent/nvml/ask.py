"""Asks the agent's view of the GPUs in a process of its own, with the NVML that is there for it.

Reads a word a line and answers with a line of JSON each.
"""

import json
import os
import sys
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from paldia_nodeagent.devices import mps, nvidia
from paldia_nodeagent.devices.cards import Cards
from paldia_nodeagent.devices.nvidia import Gpus

from paldia.core.errors import PaldiaError
from paldia.kit.observability import configure_logging


def answer(gpus: Gpus, cards: Cards, word: str) -> object:
    """Do what a word says."""
    match word:
        case "describe":
            found = gpus.describe()
            return [MessageToDict(gpu, preserving_proto_field_name=True) for gpu in found]
        case "sample" | "utilisation":
            if word == "sample":
                cards.sample()
            loads = gpus.utilisation()
            return [MessageToDict(load, preserving_proto_field_name=True) for load in loads]
        case "environment":
            try:
                return dict(gpus.environment(30))
            except PaldiaError as error:
                return str(error)
        case "impatient":
            nvidia._SILENCE_MOST_S, nvidia._JOIN_LIMIT_S = 0.3, 0.3
            return None
        case "start" | "stop":
            return getattr(gpus, word)()
        case _:
            found = getattr(gpus, word)
            return found() if callable(found) else found


def main() -> None:
    """Answer until there is nothing more to answer."""
    configure_logging("ask", "info", "json")
    # What takes half a minute with the real ones.
    nvidia._EVERY_S = mps._BACKOFF_FIRST_S = mps._BACKOFF_MOST_S = mps._CHECK_EVERY_S = 0.02
    cards = Cards(look_again_s=0, answer_limit_s=float(os.environ.get("ANSWER_LIMIT_S", "30")))
    gpus = Gpus(Path(sys.argv[1]), cards)
    for line in sys.stdin:
        print(json.dumps(answer(gpus, cards, line.strip())), flush=True)


if __name__ == "__main__":
    main()
