#!/usr/bin/env bash
# Three RabbitMQ nodes on this machine, to try a cluster: MQTT on the ports 18841 to 18843, user dht22, password secret.
#
#     bash cluster.sh FOLDER start [1|2|3]    all of them, or one again
#     bash cluster.sh FOLDER kill 1|2|3       as a power cut would
#     bash cluster.sh FOLDER status|stop
#
# Needs: apt-get install rabbitmq-server (3.10 was tried).
set -eu
folder=$(realpath "$1")
export HOME=$folder/home ERL_EPMD_PORT=18840  # the nodes share the cookie in HOME
export PATH=/usr/lib/rabbitmq/bin:$PATH  # those in /usr/sbin change to the user rabbitmq
mkdir -p "$HOME"

settings() {  # of node $1
    export RABBITMQ_NODENAME=node$1@localhost RABBITMQ_DIST_PORT=1885$1
    export RABBITMQ_CONFIG_FILE=$folder/node$1.conf RABBITMQ_PID_FILE=$folder/node$1.pid
    export RABBITMQ_MNESIA_BASE=$folder/node$1 RABBITMQ_LOG_BASE=$folder/node$1
    export RABBITMQ_ENABLED_PLUGINS_FILE=$folder/plugins
}

start() {
    settings "$1"
    mkdir -p "$folder/node$1"
    echo '[rabbitmq_mqtt].' > "$folder/plugins"
    cat > "$RABBITMQ_CONFIG_FILE" <<END
listeners.tcp.1 = 127.0.0.1:1886$1
mqtt.listeners.tcp.1 = 127.0.0.1:1884$1
mqtt.allow_anonymous = false
mqtt.durable_queue_type = quorum
default_user = dht22
default_pass = secret
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = node1@localhost
cluster_formation.classic_config.nodes.2 = node2@localhost
cluster_formation.classic_config.nodes.3 = node3@localhost
END
    rabbitmq-server > "$folder/node$1/out" 2>&1 &
}

wait_for() {
    settings "$1"
    rabbitmqctl --quiet wait --timeout 120 "$RABBITMQ_PID_FILE" > "$folder/node$1/wait" 2>&1
}

case $2 in
    start)
        for node in ${3:-1 2 3}; do start "$node"; done
        for node in ${3:-1 2 3}; do wait_for "$node"; done
        ;;
    kill) kill -9 "$(cat "$folder/node$3.pid")" ;;
    status) settings "${3:-1}"; rabbitmqctl --quiet cluster_status ;;
    stop)
        pids=()  # read before: a node removes its file, and only then ends
        for node in 1 2 3; do pid=$(cat "$folder/node$node.pid") && pids+=("$pid"); done
        for pid in "${pids[@]}"; do kill "$pid" || true; done
        for pid in "${pids[@]}"; do
            while kill -0 "$pid" 2> /dev/null; do sleep 0.2; done
        done
        epmd -port $ERL_EPMD_PORT -kill > /dev/null || true
        ;;
esac
