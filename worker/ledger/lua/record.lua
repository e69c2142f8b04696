-- Records: what every script that moves a record's state does in the same way.

-- Append one line to the history. `at_ms` is a string of unix milliseconds.
local function history_append(history_key, at_ms, who, from_state, to_state, why)
  redis.call('RPUSH', history_key, cjson.encode({
    at_ms = at_ms, who = who, from_state = from_state, to_state = to_state, why = why,
  }))
  if FINAL[to_state] then
    -- For the notifier, in the step that ends it: whoever dies now has told nobody, and nothing is forgotten. The key
    -- lies in the session's own slot; without a notifier it is bounded.
    local session, id = string.match(history_key, '^(.*:)history:(.*)$')
    redis.call('XADD', session .. 'ended', 'MAXLEN', '~', '10000', '*', 'id', id, 'state', to_state)
  end
end

-- Keep the number of records per state.
local function count_move(counts_key, from_state, to_state)
  if from_state ~= '' then
    redis.call('HINCRBY', counts_key, from_state, -1)
  end
  redis.call('HINCRBY', counts_key, to_state, 1)
end
