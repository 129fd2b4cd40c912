"""Every exception that dagrid raises on purpose, in one tree; it knows nothing of the rooms that raise them.

    DagridError
     +-- GraphError (also ValueError)          the graph as described cannot be run
     |    +-- CycleError                       .cycle: the node names along it
     |    +-- UnknownNodeError                 .name, .suggestion
     |    +-- DuplicateNodeError               .name
     |    +-- InvalidNodeError                 a node's own settings: not callable, timeout <= 0, ...
     |    +-- SerializationError               JSON that is not a graph of ours
     +-- PlanError (also ValueError)           graph and tasks do not fit together, found before anything runs
     |    +-- UnknownTaskError                 a task for a node that is not there
     |    +-- UnboundParameterError            a parameter that names no predecessor
     |    +-- UnsatisfiableError               a resource request that can never fit
     +-- RunError                              what a run reports about a node
     |    +-- TaskTimeoutError (also TimeoutError)
     |    +-- TaskCancelledError
     |    +-- TaskSkippedError
     |    +-- WorkerLostError                  the worker vanished while it ran the attempt
     |    +-- PoisonousTaskError               lost too often to be tried again
     |    +-- ResultTransferError              a value, error or function that cannot travel
     |    +-- RuleError                        a rule's predicate or body failed, or its patch is not allowed
     +-- BackendError                          the place where work runs
     |    +-- UnknownBackendError              no such name, with the nearest
     |    +-- BackendNotInstalledError (also ImportError)
     |    +-- BackendClosedError
     |    +-- CapabilityError                  asked for something the backend cannot do
     +-- IllegalTransitionError                a state machine was asked for a move that is not in the table
     +-- DagridInternalError                   a fault of dagrid itself: please report it

A message names the remedy: what was wrong, where, and what to do.
"""

from __future__ import annotations
