# shellcheck shell=bash
# How `test` runs a step, counts it and reports at the end. Sourced.
#
# A check counts as one: passed or failed. A run of test binaries counts what its `test result:` lines say, and one
# failure more if it failed without saying so. What could not run is counted as skipped, with the reason. The folder
# $work, which `test` makes, takes the logs.

rows=() passed_total=0 failed_total=0 skipped_total=0

# row NAME WHERE PASSED FAILED SKIPPED SECONDS [NOTE]
row() {
  rows+=("$(printf '%-32s %-26s %7s %7s %8s %7s  %s' "$1" "$2" "$3" "$4" "$5" "$6" "${7:-}")")
  passed_total=$((passed_total + $3)) failed_total=$((failed_total + $4)) skipped_total=$((skipped_total + $5))
}

# check NAME COMMAND...: one pass or one failure.
check() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >&2; then
    row "$name" "this host" 1 0 0 "$((SECONDS - start)) s"
  else
    say "$name: failed"
    row "$name" "this host" 0 1 0 "$((SECONDS - start)) s"
  fi
}

# skip NAME REASON: one that could not run.
skip() {
  say "$1: skipped, $2"
  row "$1" "not run" 0 0 1 "" "$2"
}

# tests NAME WHERE COMMAND...: runs test binaries and counts their results.
tests() {
  local name=$1 where=$2 log=${work:?}/log start=$SECONDS status=0 note='' flaky passed failed ignored
  shift 2
  "$@" 2>&1 | tee "$log" || status=$?
  read -r passed failed ignored < <(awk '
    /^test result: / { for (i = 2; i <= NF; i++) if ($i ~ /^(passed|failed|ignored);$/) n[$i] += $(i - 1) }
    END { print n["passed;"] + 0, n["failed;"] + 0, n["ignored;"] + 0 }' "$log")
  if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
    failed=1 note="ended with status $status"
  fi
  flaky=$(sed -n 's/^flaky: //p' "$log" | paste -sd ' ')
  [ -z "$flaky" ] || note+="passed at the second try: $flaky"
  row "$name" "$where" "$passed" "$failed" "$ignored" "$((SECONDS - start)) s" "$note"
}

# report: the table and the sum; exit status 1 when something failed or nothing ran.
report() {
  printf '\n%-32s %-26s %7s %7s %8s %7s\n' step where passed failed skipped time
  printf '%s\n' "${rows[@]}"
  local skipped=''
  [ $skipped_total = 0 ] || skipped=", $skipped_total skipped"
  printf '\n%s passed, %s failed%s\n' $passed_total $failed_total "$skipped"
  [ $failed_total = 0 ] && [ $passed_total != 0 ]
}
