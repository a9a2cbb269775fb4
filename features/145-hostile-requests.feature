@validation @hostile @shared
Feature: Whatever is sent, a daemon says what is wrong with it and goes on

  @V08
  Scenario Outline: A body over the limit is refused, however it comes
    Given a running rbee with a demo worker that is only read
    When <daemon> gets a body of 9 MiB <how>
    Then the answer is 413 with the code "BODY_TOO_LARGE" and both numbers
    And that daemon answers the next request

    Examples:
      | daemon     | how                                  |
      | the queen  | with its length                      |
      | the queen  | in chunks without a length           |
      | the queen  | of which only the headers are sent   |
      | the hive   | with its length                      |
      | the hive   | in chunks without a length           |
      | the hive   | of which only the headers are sent   |
      | the worker | with its length                      |
      | the worker | in chunks without a length           |
      | the worker | of which only the headers are sent   |

  @V11
  Scenario: A flood of bad requests is refused for that client only
    Given a running rbee
    And a worker with the model "demo"
    When one client floods the queen with bad requests
    Then that client is answered 429 with a Retry-After
    And another client is answered meanwhile
    When that client floods the queen with requests that only the hive can refuse
    Then the node is reachable and loads a model for another client
    When a stranger guesses the hive's key
    Then the stranger is answered 429, and the queen still reaches its hive
    And the flood is told in the logs of queen and hive, but not line by line

  @V10
  Scenario Outline: Random requests by the published description neither fail nor crash a daemon
    Given a rbee that refuses no flood, with a demo worker
    When <daemon> gets random requests by its own description
    Then every failure was documented and told in five parts
    And that daemon is the same process as before, and its log has no trace of a failure

    Examples:
      | daemon     |
      | the queen  |
      | the hive   |
      | the worker |

  @V10
  Scenario Outline: Hostile bytes neither fail nor crash a daemon, nor fill its memory or its log
    Given a rbee that refuses no flood, with a demo worker
    When <daemon> gets hostile requests
    Then every failure was documented and told in five parts
    And its memory and its log have not grown with them
    And that daemon is the same process as before, and its log has no trace of a failure

    Examples:
      | daemon     |
      | the queen  |
      | the hive   |
      | the worker |
