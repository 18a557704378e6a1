//! Puts a problem to cvc5 through Cedar's symbolic compiler.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::time::Duration;

use cedar_policy::RequestEnv;
use cedar_policy_symcc::solver::{LocalSolver, SolverError};
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet, Env};
use tokio::process::Command;

use super::super::schema;
use super::encode::Problem;
use super::{Action, undecided};

/// Names the solver's program.
const VARIABLE: &str = "CVC5";
/// What the solver may take beyond its own limit before it is ended.
const GRACE: Duration = Duration::from_secs(5);

/// An SMT solver, as a program that reads SMT-LIB: cvc5, 1.3 or later.
#[derive(Debug, Clone)]
pub struct Solver {
    program: OsString,
    patience: Duration,
}

impl Solver {
    /// The program that the variable `CVC5` names, else `cvc5`, with as long as it may take.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        let program = std::env::var_os(VARIABLE).unwrap_or_else(|| "cvc5".into());
        Self { program, patience }
    }

    /// The same with another program.
    #[must_use]
    pub fn program(self, program: impl Into<OsString>) -> Self {
        Self { program: program.into(), ..self }
    }

    /// A request that both sets allow; none if there can be none. The error says why neither is known.
    pub(super) fn solve(&self, problem: &Problem) -> Result<Option<Env>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(async {
            let limit = self.patience + GRACE;
            let solved = tokio::time::timeout(limit, self.ask(problem)).await;
            solved.unwrap_or_else(|_| {
                Err(format!("the solver was ended after {} s", limit.as_secs()))
            })
        })
    }

    async fn ask(&self, problem: &Problem) -> Result<Option<Env>, String> {
        let workload = schema::workload_type();
        let action = schema::action_uid(Action::Connect).clone();
        let environment = RequestEnv::new(workload.clone(), action, workload.clone());
        let said = |error| undecided(&error, self.patience);
        let compile =
            |set| CompiledPolicySet::compile(set, &environment, &problem.schema).map_err(said);
        let (connect, accept) = (compile(&problem.connect)?, compile(&problem.accept)?);
        let mut compiler = CedarSymCompiler::new(self.start()?).map_err(said)?;
        compiler.check_disjoint_with_counterexample_opt(&connect, &accept).await.map_err(said)
    }

    fn start(&self) -> Result<LocalSolver, String> {
        let mut command = Command::new(&self.program);
        command.args(["--lang", "smt"]);
        command.arg(format!("--tlimit={}", self.patience.as_millis()));
        LocalSolver::from_command(command.kill_on_drop(true)).map_err(|error| match error {
            SolverError::Io(error) if error.kind() == ErrorKind::NotFound => format!(
                "there is no solver: {} is not found; install cvc5 1.3 or later, or name it in {VARIABLE}",
                self.program.display()
            ),
            other => format!("the solver {} does not start: {other}", self.program.display()),
        })
    }
}
