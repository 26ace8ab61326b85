#!/usr/bin/env bash
# check.sh PAGE...: what the pages name in backticks exists.
#
#   `dir/file.c:function`        the function is defined in that file
#   `dir/file.c`                 the file is there
#   `svc_kbs.grant_test:test_x`  the test is registered in svc-kbs/grant_test.c
#   `isolation:test_x`           likewise in tests/isolation
#   `integration.x` `sim.x` `fuzz.x` `docs.x`   the test is registered with ctest
#   `--break x`                  tests/sim knows this fault
#   `coffer.v1.x`                the subject is in proto/subjects.def
#   `coffer verb …`              cli/verbs.c has the verb
#   `x-y-ms`                     a service has this setting
#   [text](file)                 the file is there
#
# docs/LIFE-OF-A-JOB.md also: the job states of its table are those of svc-scheduler, each of them
# occurs, and so does every subject.
set -euo pipefail
cd "$(dirname "$0")/.."
fail=0
bad() {
    printf '%s: %s\n' "$page" "$*"
    fail=1
}

# A definition, not a call or a declaration.
defines() { grep -qE "^[a-z][a-z0-9_ *]*[ *]$2\(([^;]*|.*[^;])$" "$1"; }
registers() { tr '\n' ' ' <"$1" | grep -qE "(T|cmocka_unit_test[a-z_]*)\( *$2 *[,)]"; }

directory() {
    case $1 in
    coffer_common) echo common ;;
    coffer_testing) echo common/testing ;;
    coffer_cli) echo cli ;;
    coffer_appraise) echo appraise ;;
    coffer_guest) echo guest ;;
    svc_*) echo "svc-${1#svc_}" ;;
    *) return 1 ;;
    esac
}

check_unit() { # LIB.FILE[:TEST]
    local lib=${1%%.*} rest=${1#*.}
    local file=${rest%%:*} dir
    dir=$(directory "$lib") || { bad "$1: no such library"; return; }
    [ -e "$dir/$file.c" ] || { bad "$1: there is no $dir/$file.c"; return; }
    [ "$file" = "$rest" ] || registers "$dir/$file.c" "${rest#*:}" ||
        bad "$1: $dir/$file.c does not run ${rest#*:}"
}

check_function() { # FILE:FUNCTION
    local file=${1%%:*}
    [ -e "$file" ] || { bad "$1: there is no $file"; return; }
    defines "$file" "${1#*:}" || bad "$1: not defined in $file"
}

check_verb() { # WORD...
    local a="$1" b="$1 ${2:-}" c="$1 ${2:-} ${3:-}" v
    for v in "$a" "$b" "$c"; do
        ! grep -qE "\{\"$v\"," cli/verbs.c || return 0
    done
    bad "coffer $*: no such verb"
}

check_name() {
    local n=$1
    case $n in
    *.[ch]:* | *.sh:*) [[ $n =~ ^[a-z_/.-]+:[a-z_0-9]+$ ]] && check_function "$n" ;;
    coffer.v1.*)
        [[ $n =~ ^[a-z0-9.]+(\.\<[a-z]+\>)?$ ]] || return 0
        n=${n%.<*}
        grep -q "\"$n\"" proto/subjects.def || bad "$1: not in proto/subjects.def"
        ;;
    coffer_*_test* | svc_*_test*)
        [[ $n =~ ^[a-z_]+\.[a-z_]+_test(:[a-z_0-9]+)?$ ]] && check_unit "$n"
        ;;
    isolation:*)
        registers tests/isolation/isolation_test.c "${n#*:}" ||
            registers tests/isolation/isolation_errors_test.c "${n#*:}" || bad "$n: no such test"
        ;;
    integration.*)
        grep -qE "^integration_test\(${n#*.} " tests/integration/CMakeLists.txt || bad "$n: no such test"
        ;;
    sim.*) grep -q "NAME $n " tests/sim/CMakeLists.txt || bad "$n: no such test" ;;
    fuzz.*) grep -qE "coffer_fuzz\(${n#*.} " tests/fuzz/CMakeLists.txt || bad "$n: no such test" ;;
    docs.*)
        [[ $n =~ ^docs\.[a-z-]+$ ]] || return 0
        grep -qE "NAME $n( |$)" docs/CMakeLists.txt common/CMakeLists.txt || bad "$n: no such test"
        ;;
    "--break "*) grep -q ", \"${n#--break }\"," tests/sim/sim.h || bad "$n: tests/sim knows no such fault" ;;
    "coffer "[a-z]*) check_verb ${n#coffer } ;;
    *-ms)
        [[ $n =~ ^(--)?[a-z-]+$ ]] || return 0
        grep -qE "(\"|MS\(\")${n#--}\"" svc-*/*.c || bad "$n: no service has this setting"
        ;;
    */*.c | */*.h | */*.sh | */*.def | */*.proto | */*.md | */*.in)
        [[ $n =~ ^(proto|common|svc-[a-z]+|guest|cli|tests|bench|scripts|deploy|examples|docs)/[A-Za-z0-9_./-]+$ ]] ||
            return 0
        [ -e "$n" ] || bad "$n: there is no such file"
        ;;
    esac
    return 0
}

check_page() {
    local n
    while IFS= read -r n; do
        check_name "$n"
    done < <(grep -oE '`[^`]+`' "$page" | tr -d '`' | sort -u)
    while IFS= read -r n; do
        [ -e "$(dirname "$page")/$n" ] || bad "a link to $n, which is not there"
    done < <(grep -oE '\]\([^)#:]+' "$page" | cut -c3- | sort -u)
}

check_life() {
    local states used n column
    states=$(sed -n '/#define JOB_STATES/,/[^\\]$/s/.*X([A-Z_]*, "\([a-z-]*\)").*/\1/p' svc-scheduler/scheduler.h)
    column=$(awk -F'|' '/^\| job state/ { exit } /^\| [0-9]+ \|/ { print $7 }' "$page")
    [ -n "$column" ] && [ -n "$states" ] || bad "no table of steps, or no table of states"
    used=$(grep -oE '`[^`]+`' <<<"$column" | tr -d '`' | sort -u)
    for n in $used; do
        grep -qx -- "$n" <<<"$states" || bad "\"$n\" is no job state of svc-scheduler"
    done
    for n in $states; do
        grep -q "\`$n\`" "$page" || bad "the job state \"$n\" is not in it"
    done
    for n in $(sed -n 's/^SUBJECT([A-Z_]*, "\([a-z0-9.]*\)".*/\1/p' proto/subjects.def); do
        grep -q "\`$n[.\`]" "$page" || bad "the subject $n is not in it"
    done
}

for page in "$@"; do
    [ -e "$page" ] || { bad "there is no such page"; continue; }
    check_page
    case $page in *LIFE-OF-A-JOB.md) check_life ;; esac
done
exit $fail
