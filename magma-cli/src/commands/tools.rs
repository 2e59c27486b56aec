//! `magma`: the tools.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use super::{demo, generate, keygen, remote, verify};
use crate::flags::Refused;
use crate::output;

/// Tools for a lava network.
#[derive(Parser, Debug)]
#[command(name = "magma", version, disable_help_subcommand = true, after_help = remote::EXIT_CODES)]
struct Tools {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand, Debug)]
enum Tool {
    /// Run a whole lava network on this host, mounted, until Ctrl-C
    Demo(demo::DemoFlags),
    /// Print a new secret key
    Keygen,
    /// Compare the stores of volcanos that do not run: are all copies equal?
    Verify(verify::VerifyFlags),
    #[command(flatten)]
    Remote(remote::RemoteTool),
    /// Write the man pages and the completions of shells, for packages
    #[command(hide = true)]
    Generate(generate::GenerateFlags),
    /// Run a volcano, as magmad does
    #[command(hide = true)]
    Magmad,
    /// Mount a network, as mount.magma does
    #[command(hide = true)]
    Mount,
}

/// The definition of the options.
pub fn command() -> clap::Command {
    Tools::command()
}

/// Runs the program; `arguments` begins with its name.
pub fn main(arguments: Vec<OsString>) -> u8 {
    let tools = match Tools::try_parse_from(arguments).map_err(Refused::from) {
        Ok(tools) => tools,
        Err(Refused::Show(text)) => {
            output::result(text.trim_end());
            return 0;
        }
        Err(Refused::Usage(line)) => {
            output::error(
                "magma",
                format_args!("{line} (magma --help shows the tools)"),
            );
            return output::USAGE;
        }
    };
    match tools.tool {
        Tool::Demo(flags) => demo::run(flags),
        Tool::Keygen => keygen::run(),
        Tool::Verify(flags) => verify::run(&flags),
        Tool::Generate(flags) => generate::run(&flags),
        Tool::Remote(tool) => remote::run(tool),
        // Taken by the first argument, before options are read: see `Program::main`.
        Tool::Magmad | Tool::Mount => {
            output::error("magma", "magmad and mount must be the first argument");
            output::USAGE
        }
    }
}
