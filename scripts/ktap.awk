#!/usr/bin/awk -f
# SPDX-License-Identifier: GPL-2.0
#
# Count the results in KTAP files, and print each failure with what the test last said
# about it and, as the last line, "N passed, N failed, N skipped". The exit status is 1
# if anything failed.
#
# A test with results of its own counts for these, not for itself; but if it
# failed although they all passed (it crashed, say) it counts as one failure.
# So do results that a plan announced and that never came, and a file without any.

# The depth of a line; takes off what marks it: kselftest's runner puts "# "
# before the lines of a test, KUnit indents by four columns.
function strip(    depth) {
	while (sub(/^(# |    )/, ""))
		depth++
	return depth + 0
}

function failure(what,    i) {
	failed++
	print file ": " test what
	for (i = notes > 4 ? notes - 3 : 1; i <= notes; i++)
		print "  # " note[i]
}

# Close the list of results at a depth, and forget it.
function close_plan(depth) {
	if (depth in planned && planned[depth] > seen[depth]) {
		failure((planned[depth] - seen[depth]) " of " planned[depth] " results never came")
		outcome[depth] = "bad"
	}
	delete planned[depth]
	delete seen[depth]
}

function close_file(    depth) {
	for (depth in planned)
		close_plan(depth)
	split("", outcome)
	test = ""
	notes = 0
	if (file != "" && !results)
		failure("no results")
}

FNR == 1 {
	close_file()
	file = FILENAME
	results = 0
	files++
}

{ depth = strip() }

# Said by kselftest's runner, and by KUnit.
sub(/^(selftests|Subtest): /, "") { test = $0 ": " }

/^1\.\.[0-9]+/ {
	close_plan(depth)
	planned[depth] = substr($1, 4) + 0
}

/^(not )?ok [0-9]+/ {
	results++
	seen[depth]++
	bad = /^not /
	close_plan(depth + 1)
	parts = outcome[depth + 1]
	if (parts == "" && !bad && toupper($0) ~ /# SKIP/)
		skipped++
	else if (parts == "" && !bad)
		passed++
	else if (bad && parts != "bad")
		failure($0)
	outcome[depth + 1] = ""
	notes = 0
	if (bad || parts == "bad")
		outcome[depth] = "bad"
	else if (outcome[depth] == "")
		outcome[depth] = "good"
}

!/^((not )?ok [0-9]|1\.\.[0-9]|K?TAP version)/ { note[++notes] = $0 }

END {
	close_file()
	if (files < ARGC - 1)
		failure((ARGC - 1 - files) " files of results are empty")
	printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
	exit failed > 0
}
