# bash completion for trellis and trellisfs. The words come from the programs' own help.

_trellis()
{
	local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words
	if [ "$COMP_CWORD" = 1 ]; then
		words=$(trellis --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
	elif [[ $word == -* ]]; then
		words=$(trellis help "$command" 2>/dev/null | grep -o -- '--[a-z-]*')
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

_trellisfs()
{
	local word=${COMP_WORDS[COMP_CWORD]} words=
	[[ $word == -* ]] && words=$(trellisfs --help 2>/dev/null | sed -n 's/^  \([a-z_]*\)\(=\?\)[A-Z a-z].*/--\1\2/p')
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -o default -F _trellis trellis
complete -o default -o nospace -F _trellisfs trellisfs
