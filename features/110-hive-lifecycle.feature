@hive @lifecycle
Feature: A hive keeps its workers alive, notices when they are not, and ends without losing anything

  @T48
  Scenario: A hive stays up after its worker is ready, and sees it die at once
    Given a running rbee
    And a worker with the model "demo"
    Then the hive tells of that worker in each of its next 3 samples
    When the worker is killed
    Then within 1 second neither hive nor queen lists that worker
    And the hive still answers
    And a successor is ready, as another process with another id and another key

  @T49
  Scenario: A worker that hangs misses its health checks, is ended by force, and comes back
    Given a running rbee with the settings
      | RBEE_POLICY_HEALTH_INTERVAL_S    | 0.5 |
      | RBEE_POLICY_HTTP_TIMEOUT_S       | 1.5 |
      | RBEE_POLICY_TELEMETRY_INTERVAL_S | 0.2 |
      | RBEE_POLICY_TERM_S               | 0.5 |
    And a worker with the model "demo"
    And what the hive publishes is followed
    When the worker is frozen
    Then the hive tells in its log of health check 1, 2 and 3 of 3, each missed at least 0.5 seconds after the one before
    And the worker was published as "unhealthy", and then not at all
    And the worker's end is told as "unhealthy" with the code "WORKER_CRASHED", by SIGTERM and SIGKILL
    And a successor is ready, as another process with another id and another key

  @T47 @T50
  Scenario: An idle worker is unloaded at its limit, and the next request is a cold start
    Given a running rbee with the settings
      | RBEE_POLICY_IDLE_WORKER_S        | 2   |
      | RBEE_POLICY_TELEMETRY_INTERVAL_S | 0.2 |
    And the memory that the hive has to give is noted
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And the worker is gone for being idle, 2 seconds after its work and not much later
    And the hive has that memory to give again
    And the hive still answers
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And stderr names "asking node local to load it" and "is loaded"
    And it was another worker that answered

  @T44
  Scenario: A person who waits for a load that takes too long is told so
    Given a running rbee with the settings
      | RBEE_POLICY_LOAD_BASE_S          | 3   |
      | RBEE_POLICY_LOAD_PER_GIB_S       | 0   |
      | RBEE_POLICY_TELEMETRY_INTERVAL_S | 0.2 |
      | RBEE_POLICY_TERM_S               | 0.5 |
    When a person starts "rbee infer --model {large} --prompt 'Once upon a time' --max-tokens 8"
    And the worker that is started for it is frozen at once
    Then the command ends with 1
    And stderr names "LOADING_TIMEOUT", "after 3 s, its limit" and "hint: rbee logs --worker"
    And no worker is left

  @T51
  Scenario: A hive that gets SIGTERM ends all its workers and keeps its catalog
    Given a hive that this test has started
    And 3 workers of it with the model "demo"
    And its models are noted
    When that hive gets SIGTERM
    Then it exits with 0
    And none of its processes is left, nor any run file
    And each of its workers is told as ended with its hive, with exit code 0
    And the next hive has the same models

  @L01
  Scenario: A worker that ignores its shutdown is ended by SIGTERM and SIGKILL at their limits
    Given a running rbee with the settings
      | RBEE_POLICY_TERM_S | 1 |
    And a worker with the model "demo"
    When the worker is frozen
    And a person runs "rbee workers shutdown --id {worker} --drain 1"
    Then the command exits with 0
    And it took at least 2 seconds
    And the hive tells in its log that this worker needed SIGTERM and SIGKILL, with its pid and the reason "stopped"
    And the hive lists no worker, and starts none by itself

  @L02
  Scenario: A hive that drains lets a running request finish and takes no new work
    Given a hive that this test has started
    And a worker of it with the model "{steady}"
    And a request of 400 tokens that the worker answers
    When that hive gets SIGTERM
    Then the worker is listed as "draining"
    And another worker is refused with 503 and "DRAINING"
    And another request to the worker is refused with 503 and "DRAINING"
    But the running request is answered to its last token
    And it exits with 0
    And none of its processes is left, nor any run file

  @L03
  Scenario: Five workers that have to be forced end side by side
    Given a hive that this test has started, with the settings
      | RBEE_POLICY_DRAIN_S | 1 |
      | RBEE_POLICY_TERM_S  | 1 |
    And 5 workers of it with the model "demo"
    When all its workers are frozen
    And that hive gets SIGTERM
    Then it exits with 0
    And that took at least 2 seconds, the time of one, and less than 8
    And none of its processes is left, nor any run file

  @L05
  Scenario: A hive is replaced while its worker streams
    Given a running rbee
    And a worker with the model "{steady}"
    And the queen and the hive that run are noted
    When task "long" asks "{steady}" for 1000 tokens
    And task "long" has its first token
    And a person runs "rbee hive restart"
    Then the command exits with 0
    And another hive runs, which found that same worker by its process
    And task "long" was still being answered then
    And task "long" is answered to its last token, without a gap
    And the queen lists that same worker again
    When a person runs "rbee queen restart"
    Then the command exits with 0
    And another queen runs
    And the queen lists that same worker again

  @F06
  Scenario: A hive that was killed is replaced while its worker streams, and watches it as its own
    Given a running rbee
    And a worker with the model "{steady}"
    And the queen and the hive that run are noted
    When task "long" asks "{steady}" for 1000 tokens
    And task "long" has its first token
    And the hive is killed
    And a person runs "rbee hive restart"
    Then the command exits with 0
    And another hive runs, which found that same worker by its process
    And task "long" was still being answered then
    And task "long" is answered to its last token, without a gap
    When the worker is killed
    Then within 1 second neither hive nor queen lists that worker
    And a successor is ready, as another process with another id and another key
    When the successor gets SIGTERM
    Then its end is told as "ended", and nothing follows from that

  @F09
  Scenario: A worker that crashes again and again is given up until a person says otherwise
    Given a running rbee with the settings
      | RBEE_POLICY_RESTART_FIRST_S | 0.4 |
    And a worker with the model "demo"
    When the worker and each of its successors is killed as soon as it is ready, 5 in all
    Then the waits between the crashes and the next starts were at least 0.4, 0.8, 1.6 and 3.2 seconds
    And none of them was 3 seconds longer
    And one row is listed, failed and without a process
    When a person runs "rbee ps"
    Then the command exits with 0
    And stderr names "crashed 5 times within 10 minutes" and "rbee workers shutdown --id"
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 1
    And stderr names "WORKER_CRASH_LOOP", "5 times" and "killed by SIGKILL"
    When a person runs what the hint says
    Then the command exits with 0
    And no worker is left
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout

  @F09
  Scenario: Who asks for a model that waits after a crash gets that worker, and is told why it takes so long
    Given a running rbee with the settings
      | RBEE_POLICY_RESTART_FIRST_S | 4 |
    And a worker with the model "demo"
    When the worker is killed
    And a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And stderr names "demo on cpu 0 crashed: killed by SIGKILL while it was idle; it is started again in"
    And a successor is ready, as another process with another id and another key
    And there is one worker only

  @L05
  Scenario: A worker that died while nobody looked is told as lost by the next hive
    Given a running rbee
    And a worker with the model "demo"
    When the hive is killed
    And the worker is killed
    And a person runs "rbee hive restart --json"
    Then the command exits with 0
    And it lists that worker as lost
    And no worker is left
