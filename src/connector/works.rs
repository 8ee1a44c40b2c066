//! What one shard works by: a plan, and the connections to its origins. An exchange keeps the works it began with until
//! its end; when other settings are in force, another takes their place for what begins then.

use std::rc::Rc;
use std::sync::Arc;

use super::group::Servers;
use super::plan::Plan;
use super::sources::Sources;
use crate::shard::Shard;

/// See the file's head. The plan's numbers mean nothing beside other works.
pub struct Works {
    /// By what.
    pub plan: Arc<Plan>,
    /// Those of the plan.
    pub servers: Servers,
}

impl Works {
    /// Those of `plan`; nothing is dialled yet.
    pub fn new(shard: &Rc<Shard>, plan: &Arc<Plan>, sources: &Arc<Sources>) -> Works {
        Works { plan: plan.clone(), servers: Servers::new(shard, plan, sources) }
    }

    /// Those of another plan, which go on with what is the same in both.
    pub fn next(&self, shard: &Rc<Shard>, plan: &Arc<Plan>, sources: &Arc<Sources>) -> Works {
        Works { plan: plan.clone(), servers: self.servers.next(shard, plan, sources) }
    }
}
