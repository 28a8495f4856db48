//! Looks at and changes a running fullgate; see `fullgate::cli`.

fn main() -> std::process::ExitCode {
    fullgate::cli::run()
}
