# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian packages of a release other than the machine's own, from the mirror
# that the machine is configured for, without touching that configuration.

APT_DIR=$CACHE/apt

# The machine's own mirrors that carry Debian's main component. Origin and
# label are known only after an update; the suite name tells security apart.
debian_mirrors() {
	# shellcheck disable=SC2016 # apt's own placeholders
	apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(RELEASE) $(ORIGIN)' 'Created-By: Packages' |
		awk '$2 == "main" && $3 !~ /-security|\/updates/ && ($4 == "Debian" || $4 ~ /^\$/) { print $1 }' |
		sort -u
}

# with_suites "TYPE SUITE"... -- COMMAND...: run an apt command that sees these suites only.
with_suites() {
	local suite mirror mirrors

	mirrors=$(debian_mirrors)
	[[ -n $mirrors ]] || die "no Debian mirror in this machine's apt configuration: add one that carries 'main'"
	mkdir -p "$APT_DIR/lists/partial" "$APT_DIR/archives/partial"
	: >"$APT_DIR/sources.list"
	while [[ $1 != -- ]]; do
		read -r type suite <<<"$1"
		for mirror in $mirrors; do
			echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
		done >>"$APT_DIR/sources.list"
		shift
	done
	shift
	cat >"$APT_DIR/apt.conf" <<-EOF
		Dir::Etc::sourcelist "$APT_DIR/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State::lists "$APT_DIR/lists";
		Dir::Cache "$APT_DIR";
		APT::Sandbox::User "root";
	EOF
	APT_CONFIG=$APT_DIR/apt.conf "$@"
}

# fetch_source PACKAGE VERSION: get the source of a Debian 13 package, without what
# Debian adds to it, and make build/PACKAGE.tar a link to it.
fetch_source() {
	local tarball=$CACHE/sources/$1-$2.tar.xz lock

	mkdir -p "${tarball%/*}"
	exec {lock}>"${tarball%/*}/lock"
	flock "$lock"
	if [[ ! -e $tarball ]]; then
		step "fetch-$1" "get the source of $1 $2" download_source "$1" "$2" "$tarball"
	fi
	exec {lock}>&-
	ln -sfn "$tarball" "$BUILD/$1.tar"
}

# $1: package, $2: version, $3: file.
download_source() {
	local work=${3%/*}/package

	rm -rf "$work"
	mkdir "$work"
	with_suites "deb-src trixie" -- apt-get update
	(cd "$work" && with_suites "deb-src trixie" -- apt-get source --tar-only --download-only "$1")
	mv "$work/$1_$2"*.orig.tar.xz "$3"
	rm -rf "$work"
}
