# Puts a staged set of files in place: $1 directory, $2 keep, $3 stage, $4 where kept sets lie.
# The manifest in the stage has a line for each file: "put NAME", "remove NAME", or "date NAME"
# for one to put that gets the present time.
# Every line may be the last that runs; run again, all ends the same.
set -u
umask 077
directory=$1 keep=$2 stage=$3 sets=$4

fail() {
    echo "$*" >&2
    exit 1
}

flush() {
    sync -f "$1" 2>/dev/null || sync
}

arrived() {
    [ -f "$stage/manifest" ] || fail "$stage has no manifest: the files did not arrive whole"
}

arrived
touch "$stage" "$stage/manifest" || fail "$stage cannot be written"
# What a killed program of ours started may still be at it: it ends first.
if command -v flock >/dev/null; then
    exec 9>>"$sets/lock"
    flock 9 || fail "cannot lock $sets/lock"
    # Who took over from us while we waited has cleared it away.
    arrived
fi

[ -d "$directory" ] || (umask 022 && mkdir -p "$directory") || fail "cannot make $directory"
probe=$directory/.kubepki-probe
rm -f "$probe"
ln "$stage/manifest" "$probe" ||
    fail "$stage and $directory are not on one file system, or $directory cannot be written"
rm -f "$probe"

# Names hold nothing that a shell takes for something else: lists of them need no quotes. Each list
# is one process, where a host would start a hundred.
puts= dates= removes=
while read -r verb name; do
    [ ! -d "$directory/$name" ] || fail "$directory/$name is a directory"
    [ "$verb" = remove ] || [ -f "$stage/$name" ] || fail "$stage/$name is missing"
    case $verb in
    put) puts="$puts $name" ;;
    date) puts="$puts $name" dates="$dates $name" ;;
    remove) removes="$removes $name" ;;
    esac
done <"$stage/manifest" || exit 1
cd "$stage" || fail "cannot enter $stage"
[ -z "$dates" ] || touch $dates || fail "cannot touch files in $stage"

# What was there is kept once: the folder gets its name when it is whole.
if [ ! -d "$keep" ]; then
    rm -rf "$keep.part"
    mkdir -p "$keep.part" && : >"$keep.absent" || fail "cannot make $keep"
    links=
    for name in $puts $removes; do
        now=$directory/$name
        if [ ! -e "$now" ]; then
            echo "$name" >>"$keep.absent" || fail "cannot write $keep.absent"
        elif [ -L "$now" ]; then
            cp -p "$now" "$keep.part/$name" || fail "cannot keep $now"
        else
            links="$links $name"
        fi
    done
    if [ -n "$links" ] && ! (cd "$directory" && ln $links "$keep.part/") 2>/dev/null; then
        for name in $links; do
            now=$directory/$name
            [ -e "$keep.part/$name" ] || cp -p "$now" "$keep.part/$name" || fail "cannot keep $now"
        done
    fi
    flush "$keep.part"
    mv "$keep.part" "$keep" || fail "cannot keep the former files in $keep"
fi

if grep -q selinuxfs /proc/filesystems 2>/dev/null && command -v chcon >/dev/null; then
    for name in $puts; do
        [ ! -e "$directory/$name" ] || chcon --reference="$directory/$name" "$name" 2>/dev/null
    done
fi
flush "$stage"
[ -z "$puts" ] || mv -f $puts "$directory/" || fail "cannot replace files in $directory"
[ -z "$removes" ] || (cd "$directory" && rm -f $removes) || fail "cannot remove files of $directory"
flush "$directory"
cd /
# What tries that were killed have left, of this set or of others that nobody comes back to; what
# is younger belongs to whoever follows us.
for other in "$sets"/*/*.new-* "$sets"/*/*.part; do
    [ "$other" = "$stage" ] || [ ! "$other" -ot "$stage/manifest" ] || rm -rf "$other"
done
rm -rf "$stage"

# The kept sets of the last five plans stay.
plans=0 last=
ls -1t "$sets" | while read -r set; do
    [ -d "$sets/$set" ] || continue
    if [ "${set%-*}" != "$last" ]; then
        last=${set%-*}
        plans=$((plans + 1))
    fi
    [ "$plans" -le 5 ] || rm -rf "${sets:?}/$set"
done
exit 0
