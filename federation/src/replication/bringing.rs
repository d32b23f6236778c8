//! Functions on their way to this node, and those that it lets go of for them.

use tracing::{debug, info};
use weir_federation_core::replication::{LET_GO_MAX, Sake, is_brought};
use weir_node::function::FunctionSpec;
use weir_node::id::FunctionName;
use weir_node::node::DeployMode;
use weir_node::panics;

use super::{AdoptError, Replication};
use crate::dispatch::asks_for_grants;

impl Replication {
    /// Whether this node may and can run a function that it hears of.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_run(&self, name: &FunctionName) -> Result<(), AdoptError> {
        let entry = self.federated.entry(name);
        let entry = entry.ok_or_else(|| "nothing is known of it".to_owned());
        let fits = entry.and_then(|entry| {
            let spec = entry.spec.ok_or_else(|| "it was removed".to_owned())?;
            self.fits(&spec)
        });
        fits.map_err(|reason| AdoptError::Unfit(format!("{name}: {reason}")))
    }

    /// Whether a function of others asks for no more than this node gives them.
    ///
    /// # Errors
    /// What is too much, in words.
    pub(crate) fn fits(&self, spec: &FunctionSpec) -> Result<(), String> {
        // What its deployer was granted elsewhere is not granted here.
        if asks_for_grants(spec) {
            let text = "it asks for grants that its own node gives, and this one does not";
            return Err(text.to_owned());
        }
        self.node.check(spec).map_err(|error| error.to_string())?;
        match self.node.has_executor_for(spec) {
            true => Ok(()),
            false => Err("no executor of this node runs it".to_owned()),
        }
    }

    /// Whether this node has the secrets that a function names.
    ///
    /// # Errors
    /// Which one it lacks.
    pub(crate) async fn has_secrets(&self, name: &FunctionName) -> Result<(), AdoptError> {
        let own = self.node.spec(name);
        let spec = own.or_else(|| self.federated.entry(name)?.spec);
        let Some(spec) = spec.filter(|spec| !spec.secrets.is_empty()) else {
            return Ok(());
        };
        let here = self.node.secrets(&name.namespace).await?;
        match spec.secrets.iter().find(|secret| !here.contains(secret)) {
            None => Ok(()),
            Some(secret) => Err(AdoptError::Unfit(format!("it has no secret {secret}"))),
        }
    }

    /// Whether this node may and can run a function that it hears of, as far as
    /// that shows without the code.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn may_run_with_secrets(&self, name: &FunctionName) -> Result<(), AdoptError> {
        self.may_run(name)?;
        self.has_secrets(name).await
    }

    /// Whether a function is being brought here.
    pub(crate) fn is_adopting(&self, name: &FunctionName) -> bool {
        self.adopting.contains_key(name)
    }

    /// Brings a function here for users of other nodes, or its newest version
    /// where an older one is here.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn adopt_for_guests(&self, name: &FunctionName) -> Result<(), AdoptError> {
        let newest = self.federated.entry(name).and_then(|entry| entry.spec);
        let anew = self.node.spec(name).is_some_and(|own| Some(own) != newest);
        self.adopt_beside(name, anew, Sake::Guests).await
    }

    /// Brings a function here: its code from those who have it, and then as if
    /// it were deployed. With `anew` also where an older one is here already.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn adopt(&self, name: &FunctionName, anew: bool) -> Result<(), AdoptError> {
        self.adopt_beside(name, anew, Sake::Own).await
    }

    async fn adopt_beside(
        &self,
        name: &FunctionName,
        anew: bool,
        sake: Sake,
    ) -> Result<(), AdoptError> {
        let turn = self.adopting.entry(name.clone()).or_default().clone();
        let adopted = {
            let _turn = turn.lock().await;
            match self.node.spec(name) {
                // Whoever was before this one has brought it.
                Some(_) if !anew => Ok(()),
                // Or its turn would never end.
                Some(_) | None => match panics::contain(self.bring(name, sake)).await {
                    Ok(brought) => brought,
                    Err(panicked) => Err(AdoptError::Code(panicked.to_string())),
                },
            }
        };
        drop(turn);
        self.adopting
            .remove_if(name, |_, turn| std::sync::Arc::strong_count(turn) == 1);
        adopted
    }

    async fn bring(&self, name: &FunctionName, sake: Sake) -> Result<(), AdoptError> {
        self.may_run(name)?;
        self.let_go(sake).await;
        let gone = || AdoptError::Unfit(format!("{name}: it was removed"));
        let entry = self.federated.entry(name).ok_or_else(gone)?;
        let spec = entry.spec.clone().ok_or_else(gone)?;
        if let Some(code) = &entry.record.code
            && self.node.artifact(&code.artifact()).is_none()
        {
            self.exchange.fetch(name, &entry, *code).await?;
        }
        self.node
            .deploy((*spec).clone(), DeployMode::CreateOrReplace)
            .await?;
        let calls = self.calls_of_brought(name);
        self.rules().came(name, calls, self.now());
        Ok(())
    }

    /// How many calls a function had here that was brought here; `None` when it
    /// was not, or is here no more.
    pub(super) fn calls_of_brought(&self, name: &FunctionName) -> Option<u64> {
        let own = self.node.spec(name)?;
        let entry = self.federated.entry(name);
        match is_brought(&own, entry.as_ref(), &self.federated.shared.id) {
            true => self.node.calls_of(name),
            false => None,
        }
    }

    /// Lets go of functions that were brought here, those first that were not
    /// called for longest, until the node is not full any more.
    pub(super) async fn let_go(&self, sake: Sake) {
        for _ in 0..LET_GO_MAX {
            let fullness = self.node.fullness();
            let calls = |name: &FunctionName| self.calls_of_brought(name);
            let least = self.rules().let_go(fullness, sake, self.now(), calls);
            let Some(name) = least else {
                return;
            };
            let code = self.node.spec(&name);
            let code = code.and_then(|spec| spec.code.artifact().copied());
            if let Err(error) = self.node.remove(&name).await {
                debug!(function = %name, %error, "a function that is not called stays");
                continue;
            }
            info!(function = %name, "let go of a function that was not called for longest");
            if let Some(code) = code {
                self.node.discard_artifact(code).await;
            }
        }
    }
}
