//! Looks at and changes a running fullgate; see `fullgate::control::cli`.

fn main() -> std::process::ExitCode {
    fullgate::control::cli::run()
}
