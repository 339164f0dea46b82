"""``dlrun completion bash|zsh|fish``: a script that asks ``dlrun __complete LINE`` for the candidates.

The answer is one candidate per line, the whole word, with a tab and its meaning where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlrun.cli.shared import no_more
from dlrun.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments

# Readline breaks words at '=' and ':' and replaces only the last piece, so that the pieces before it are cut off.
BASH = r"""_dlrun() {
  local line="${COMP_LINE:0:COMP_POINT}" word cut="" reply
  word="${line##*[[:space:]]}"
  [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]] && cut="${word%"${word##*=}"}"
  [[ "$COMP_WORDBREAKS" == *:* && "${word#"$cut"}" == *:* ]] && cut="$cut${word#"$cut"}" && cut="${cut%"${cut##*:}"}"
  COMPREPLY=()
  while IFS=$'\t' read -r reply _; do
    [[ "$reply" == *[=./] ]] && compopt -o nospace
    COMPREPLY+=("${reply#"$cut"}")
  done < <(dlrun __complete "$line" 2>/dev/null)
}
complete -F _dlrun dlrun"""

ZSH = r"""(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_dlrun() {
  local -a open closed open_shown closed_shown
  local reply word
  for reply in "${(@f)$(dlrun __complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}"; do
    word="${reply%%$'\t'*}"
    [[ -z "$word" ]] && continue
    if [[ "$word" == *[=./] ]]; then
      open+=("$word"); open_shown+=("${reply/$'\t'/  -- }")
    else
      closed+=("$word"); closed_shown+=("${reply/$'\t'/  -- }")
    fi
  done
  (( $#open )) && compadd -Q -S '' -l -d open_shown -a open
  (( $#closed )) && compadd -Q -l -d closed_shown -a closed
}
compdef _dlrun dlrun"""

FISH = r"""complete -c dlrun -f -a '(dlrun __complete (commandline -cp | string collect) 2>/dev/null)'"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run(arguments: Arguments) -> int:
    """Print the script of one shell."""
    if not arguments.words:
        raise ConfigError(
            "'dlrun completion' wants the name of a shell: eval \"$(dlrun completion bash)\", or zsh, or fish"
        )
    shell, *rest = arguments.words
    no_more("completion", rest, "one shell")
    if shell not in SCRIPTS:
        raise ConfigError(f"there is no completion for '{shell}'{did_you_mean(shell, SCRIPTS)}")
    print(SCRIPTS[shell])
    return 0
