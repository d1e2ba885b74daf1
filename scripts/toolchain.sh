# Sourced by the other scripts, in the repository's folder.
#
# rustup may have the pinned compiler under another name ("stable"): then it is used as it is,
# instead of being fetched a second time. Where it is not installed at all, rustup fetches it.
use_installed_toolchain() {
    local pinned name
    pinned=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
    if [ -n "${RUSTUP_TOOLCHAIN:-}" ] || ! command -v rustup >/dev/null; then
        return 0
    fi
    if rustup toolchain list | grep -q "^$pinned-"; then
        return 0
    fi
    while read -r name _; do
        if [[ "$(RUSTUP_TOOLCHAIN=$name rustc --version 2>/dev/null)" == "rustc $pinned "* ]]; then
            export RUSTUP_TOOLCHAIN=$name
            return 0
        fi
    done < <(rustup toolchain list)
}
