#!/bin/sh
# Every test, in two parts: first those that share the machine well, a file on each of two cores; then, alone, the ones
# that measure a whole clinic or a browser. Arguments go to both. Non-zero when either failed, or neither had a test.
pytest=$1
shift
"$pytest" -n 2 --dist loadfile -m "not slow and not browser" "$@"
first=$?
"$pytest" -m "slow or browser" "$@"
second=$?
none=5 # pytest's exit code for "no test was selected"
[ $first = $none ] && [ $second = $none ] && exit $none
{ [ $first = 0 ] || [ $first = $none ]; } && { [ $second = 0 ] || [ $second = $none ]; }
