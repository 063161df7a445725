"""`python -m llm_fallback.cli` is the command, too."""

from llm_fallback.cli import main

main(prog_name="llm-fallback")
