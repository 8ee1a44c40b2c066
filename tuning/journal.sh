# What `tuning/apply` changed and `tuning/undo` takes back. Sourced by both; does nothing by itself.
#
# The journal has a line per change: kind, path, what was before, what we left. It is written before the change is, so that one
# that was interrupted can be undone. Kinds: `value` (a file of /proc or /sys that exists), `file` (one under /etc that we
# wrote; before is `absent`, or the name of its copy beside the journal).

die() {
    echo "$program: $*" >&2
    exit "${code:-1}"
}

# As the kernel shows a value: one blank between words, and the choice of a list of choices.
shown() {
    local text
    text=$(tr '\t\n' '  ' < "$1" 2>/dev/null) || return 1
    if [[ $text =~ \[([^]]*)\] ]]; then text=${BASH_REMATCH[1]}; fi
    echo $text
}

sum_of() { sha256sum < "$1" | cut -d' ' -f1; }

# The journal's line of a path: field 3 is before, field 4 ours.
recorded() { awk -F'\t' -v path="$1" -v n="$2" '$2 == path { print $n; found = 1 } END { exit !found }' "$journal" 2>/dev/null; }

forget() {
    awk -F'\t' -v path="$1" '$2 != path' "$journal" > "$journal.new" && mv "$journal.new" "$journal"
}

# KIND PATH BEFORE OURS: a path that has a line keeps its place and what was before.
remember() {
    if recorded "$2" 3 > /dev/null; then
        awk -F'\t' -v OFS='\t' -v path="$2" -v ours="$4" '$2 == path { $4 = ours } { print }' "$journal" > "$journal.new" &&
            mv "$journal.new" "$journal"
    else
        printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >> "$journal"
    fi
}
