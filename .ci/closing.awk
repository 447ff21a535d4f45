# Reads what `go test -v` prints. Shows the closing line of each test and package
# as it comes, and everything that a package printed once it has failed. Ends
# with 1 if a test was skipped: what did not run proves nothing.

{ said = said $0 "\n" }

/^ *--- SKIP: / { skipped = skipped "  " $0 "\n" }
/^--- PASS: / { passed++ }
/^(--- |ok  \t)/ { print; fflush() }
/^ok  \t/ { said = "" }
/^FAIL\t/ { printf "%s", said; said = ""; failed = 1 }

END {
	if (said ~ /(^|\n)(FAIL|panic:)/ || passed == 0) printf "%s", said
	if (skipped) printf "FAIL: skipped, so nothing is proved:\n%s", skipped
	if (skipped || failed) exit 1
}
