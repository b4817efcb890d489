"""A step counts its own output: a few lines of shell around its command, for `count_output`.

    the command > a > tee > standard output
                       `> b > tr > c > wc > n, and at the end the counts as the outcome file's last line

The shell is the container's first process, as the command would be: it passes signals on and ends with the command's
exit code. What the command leaves behind is killed, as the kernel does when a container's first process ends: then
tee ends only when all is written. Where a tool is missing, the command runs as if nobody had asked. As with all that
a shell starts in the background, the command begins with INT and QUIT ignored where `env` can't undo that (busybox).
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.outcome_file import OUTPUT

_SCRIPT = r"""
for t in env mkdir mkfifo rm sleep tee tr wc; do command -v $t >/dev/null 2>&1 || exec "$@"; done
d=${TMPDIR:-/tmp}/.longshore-$$ p= k=
(umask 077; mkdir "$d" && mkfifo "$d/a" "$d/b" "$d/c") 2>/dev/null || exec "$@"
q='HUP INT QUIT USR1 USR2 TERM'
for s in $q; do trap "k=$s; [ -z \"\$p\" ] || kill -$s \$p 2>/dev/null" $s; done
(trap '' $q; exec wc -lc <"$d/c" >"$d/n") & w=$!
(trap '' $q; exec env LC_ALL=C tr -d '\r' <"$d/b" >"$d/c") & t=$!
(trap '' $q; exec tee "$d/b" <"$d/a") & e=$!
env --default-signal=INT,QUIT true 2>/dev/null && set -- env --default-signal=INT,QUIT "$@"
"$@" >"$d/a" 2>&1 & p=$!
exec >/dev/null 2>&1
[ -z "$k" ] || kill -$k $p
while :; do wait $p; c=$?; kill -0 $p || break; done
trap '' $q
f=1 n=0 z=
while [ $$ = 1 ] && [ -n "$f" ] && [ $n -lt 1000 ]; do
  f= n=$((n+1))
  for i in /proc/[0-9]*; do
    i=${i#/proc/}
    case " 1 $w $t $e " in *" $i "*) continue;; esac
    read -r x <"/proc/$i/stat" || continue
    case ${x##*) } in [ZX]*) continue;; esac
    kill -KILL $i && f=1
  done
done
[ $$ = 1 ] || { (sleep 5; kill -KILL $e) & z=$!; }
wait $e && wait $t && wait $w && read -r l b <"$d/n" && printf '\n%s %s %s\n' OUTPUT $l $b >>"$LONGSHORE_OUTCOME"
[ -z "$z" ] || kill -KILL $z
rm -rf "$d"
exit $c
"""


def counted(command: Sequence[str]) -> list[str]:
    """The command that runs this one and counts what it writes; arguments may follow."""
    return ["/bin/sh", "-c", _SCRIPT.replace("OUTPUT", OUTPUT), "longshore", *command]
