//! The client against a real server of the control protocol on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Response;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::proto::pb::control_server::{Control as Service, ControlServer};
use super::*;
use crate::ports::Token;

const PATIENCE: Duration = Duration::from_millis(500);

/// A broker that answers what it is told to.
#[derive(Debug, Clone, Default)]
struct Fake {
    calls: Arc<AtomicUsize>,
    cordoned: Arc<Mutex<Vec<(i32, bool)>>>,
    hangs: bool,
    empty: bool,
}

impl Fake {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if given == Some("Bearer secret") { Ok(()) } else { Err(Status::unauthenticated("wrong secret")) }
    }
}

#[tonic::async_trait]
impl Service for Fake {
    async fn describe(&self, request: Request<pb::DescribeRequest>) -> Result<Response<pb::DescribeReply>, Status> {
        self.admit(&request)?;
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.empty {
            return Ok(Response::new(pb::DescribeReply::default()));
        }
        let myself = pb::Self_ { node_id: 2, cluster_id: "c".into(), ready: true, ..Default::default() };
        let broker = pb::Broker { node_id: 3, replicas: 7, cordoned: true, ..Default::default() };
        let member = pb::MemberProgress { node_id: 3, caught_up: true, matched_index: 9, ..Default::default() };
        let cluster = pb::Cluster {
            leader_id: 0,
            voters: vec![3, 1],
            learners: vec![4],
            progress: vec![member],
            brokers: vec![broker],
            ..Default::default()
        };
        Ok(Response::new(pb::DescribeReply { self_: Some(myself), cluster: Some(cluster) }))
    }

    async fn cordon(&self, request: Request<pb::CordonRequest>) -> Result<Response<pb::Outcome>, Status> {
        self.admit(&request)?;
        let message = request.into_inner();
        self.cordoned.lock().push((message.node_id, message.cordoned));
        let outcome = (!self.empty).then_some(pb::outcome::Outcome::Done(pb::Done {}));
        Ok(Response::new(pb::Outcome { outcome }))
    }

    async fn rebalance(&self, request: Request<pb::RebalanceRequest>) -> Result<Response<pb::RebalanceReply>, Status> {
        self.admit(&request)?;
        let limits = request.into_inner();
        let progress = pb::RebalanceProgress { in_flight: limits.max_in_flight, remaining: 5, ..Default::default() };
        let outcome = Some(pb::rebalance_reply::Outcome::Progress(progress));
        Ok(Response::new(pb::RebalanceReply { outcome }))
    }

    async fn move_leaders(
        &self,
        request: Request<pb::MoveLeadersRequest>,
    ) -> Result<Response<pb::MoveLeadersReply>, Status> {
        self.admit(&request)?;
        let outcome = Some(pb::move_leaders_reply::Outcome::Retry("no leader".into()));
        Ok(Response::new(pb::MoveLeadersReply { outcome }))
    }

    async fn change_quorum(&self, request: Request<pb::ChangeQuorumRequest>) -> Result<Response<pb::Outcome>, Status> {
        self.admit(&request)?;
        let message = request.into_inner();
        let said = format!("{} {}", message.kind().as_str_name(), message.node_id);
        Ok(Response::new(pb::Outcome { outcome: Some(pb::outcome::Outcome::Refused(said)) }))
    }

    async fn unregister(&self, request: Request<pb::UnregisterRequest>) -> Result<Response<pb::Outcome>, Status> {
        self.admit(&request)?;
        Err(Status::unimplemented("not in this version"))
    }

    async fn assign_rack(&self, request: Request<pb::AssignRackRequest>) -> Result<Response<pb::Outcome>, Status> {
        self.admit(&request)?;
        let message = request.into_inner();
        let said = format!("{} is in '{}'", message.node_id, message.rack);
        Ok(Response::new(pb::Outcome { outcome: Some(pb::outcome::Outcome::Refused(said)) }))
    }

    async fn set_cluster_default(
        &self,
        request: Request<pb::SetClusterDefaultRequest>,
    ) -> Result<Response<pb::Outcome>, Status> {
        self.admit(&request)?;
        let message = request.into_inner();
        let said = format!("{} = {:?}", message.name, message.value);
        Ok(Response::new(pb::Outcome { outcome: Some(pb::outcome::Outcome::Refused(said)) }))
    }
}

async fn serve(fake: Fake, address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpIncoming::from(listener);
    let server = Server::builder().add_service(ControlServer::new(fake)).serve_with_incoming(incoming);
    (address, tokio::spawn(async move { server.await.unwrap() }))
}

fn at(address: SocketAddr, token: &str) -> BrokerAddress {
    BrokerAddress {
        node: NodeId(2),
        host: "no-such-name.invalid".to_owned(),
        ip: Some(address.ip().to_string()),
        port: address.port(),
        token: Token(token.to_owned()),
    }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn leading() -> BrokerIo {
    BrokerIo::new(Fence::open(), PATIENCE)
}

#[tokio::test]
async fn an_answer_is_understood_and_the_secret_is_sent() {
    let (address, _server) = serve(Fake::default(), any()).await;
    let facts = leading().describe(&at(address, "secret\n")).await.unwrap();
    assert_eq!(facts.myself.node, 2);
    assert!(facts.myself.ready);
    assert_eq!(facts.cluster.leader, None, "0 means that none is known");
    assert_eq!(facts.cluster.voters.into_iter().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
    assert!(facts.cluster.progress[&NodeId(3)].caught_up);
    assert_eq!(facts.cluster.brokers[&NodeId(3)].replicas, 7);
    let error = leading().describe(&at(address, "other")).await.unwrap_err();
    assert!(matches!(&error, BrokerError::Refused(why) if why.contains("secret")), "{error}");
}

#[tokio::test]
async fn outcomes_are_told_apart() {
    let (address, _server) = serve(Fake::default(), any()).await;
    let (brokers, at) = (leading(), at(address, "secret"));
    brokers.cordon(&at, NodeId(5), true).await.unwrap();
    let limits = RebalanceLimits { max_in_flight: 3 };
    let facts = brokers.rebalance(&at, limits).await.unwrap();
    assert_eq!((facts.in_flight, facts.remaining), (3, 5));
    assert_eq!(brokers.move_leaders(&at, NodeId(1)).await.unwrap_err(), BrokerError::Retry("no leader".into()));
    for (change, said) in [
        (QuorumChange::Promote(NodeId(4)), "PROMOTE 4"),
        (QuorumChange::Remove(NodeId(4)), "REMOVE 4"),
        (QuorumChange::Demote(NodeId(4)), "DEMOTE 4"),
        (QuorumChange::TransferLeader(None), "TRANSFER_LEADER 0"),
    ] {
        assert_eq!(brokers.change_quorum(&at, change).await.unwrap_err(), BrokerError::Refused(said.into()));
    }
    assert!(matches!(brokers.unregister(&at, NodeId(1)).await.unwrap_err(), BrokerError::Refused(_)));
    for (rack, said) in [(Some("a"), "4 is in 'a'"), (None, "4 is in ''")] {
        assert_eq!(brokers.assign_rack(&at, NodeId(4), rack).await.unwrap_err(), BrokerError::Refused(said.into()));
    }
    for (value, said) in [(Some(""), "a = Some(\"\")"), (None, "a = None")] {
        assert_eq!(brokers.set_default(&at, "a", value).await.unwrap_err(), BrokerError::Refused(said.into()));
    }
}

#[tokio::test]
async fn an_empty_answer_is_never_a_success() {
    let (address, _server) = serve(Fake { empty: true, ..Fake::default() }, any()).await;
    let (brokers, at) = (leading(), at(address, "secret"));
    assert!(matches!(brokers.describe(&at).await.unwrap_err(), BrokerError::Unreachable(_)));
    assert!(matches!(brokers.cordon(&at, NodeId(1), true).await.unwrap_err(), BrokerError::Unreachable(_)));
}

#[tokio::test]
async fn a_broker_that_hangs_or_is_not_there_is_unreachable_in_time() {
    let (address, _server) = serve(Fake { hangs: true, ..Fake::default() }, any()).await;
    let brokers = leading();
    let began = Instant::now();
    let error = brokers.describe(&at(address, "secret")).await.unwrap_err();
    assert!(matches!(error, BrokerError::Unreachable(_)), "{error}");
    assert!(began.elapsed() < PATIENCE * 10);
    let closed = TcpListener::bind(any()).await.unwrap().local_addr().unwrap();
    let error = brokers.describe(&at(closed, "secret")).await.unwrap_err();
    assert!(matches!(&error, BrokerError::Unreachable(why) if why.contains("refused")), "{error}");
}

#[tokio::test]
async fn a_broker_that_comes_back_at_its_address_is_reached_again() {
    let (address, server) = serve(Fake::default(), any()).await;
    let (brokers, at) = (leading(), at(address, "secret"));
    brokers.describe(&at).await.unwrap();
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    // Connections that were accepted live on in tasks of the server's own; a broker that is really gone closes them.
    brokers.pool.forget(&address.ip().to_string(), address.port());
    assert!(matches!(brokers.describe(&at).await.unwrap_err(), BrokerError::Unreachable(_)));
    let (_, _server) = serve(Fake::default(), address).await;
    brokers.describe(&at).await.unwrap();
}

#[tokio::test]
async fn an_operator_that_no_longer_leads_reads_but_changes_nothing() {
    let fake = Fake::default();
    let (address, _server) = serve(fake.clone(), any()).await;
    let fence = Fence::default();
    let brokers = BrokerIo::new(fence.clone(), PATIENCE);
    brokers.describe(&at(address, "secret")).await.unwrap();
    assert!(matches!(brokers.cordon(&at(address, "secret"), NodeId(1), true).await, Err(BrokerError::Retry(_))));
    assert_eq!(fake.cordoned.lock().len(), 0);
    fence.extend(Instant::now() + Duration::from_secs(60));
    brokers.cordon(&at(address, "secret"), NodeId(1), true).await.unwrap();
    assert_eq!(*fake.cordoned.lock(), [(1, true)]);
}
