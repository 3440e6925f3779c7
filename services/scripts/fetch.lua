-- Take the first message of the outbox that is due, for a time in which nobody else will. One whose
-- receiver is being told of as many as it may steps aside: a slow receiver holds up no other.
-- ARGV: lease ms, most messages in hand for one receiver, ms to step aside
-- Returns {id, attempts made}, or nothing if none is due.
go_on_without_memory()
local at = now()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', OUTBOX, '-inf', at, 'LIMIT', 0, 100)) do
  if redis.call('HEXISTS', JOB .. id, 'webhook') == 0 then
    redis.call('ZREM', OUTBOX, id)
  else
    local taken = in_hand(id)
    redis.call('ZREMRANGEBYSCORE', taken, '-inf', at)
    if redis.call('ZCARD', taken) < tonumber(ARGV[2]) then
      redis.call('ZADD', OUTBOX, at + ARGV[1], id)
      redis.call('ZADD', taken, at + ARGV[1], id)
      redis.call('PEXPIRE', taken, ARGV[1])
      return {id, redis.call('LLEN', JOB .. id .. ':deliveries')}
    end
    redis.call('ZADD', OUTBOX, at + ARGV[3], id)
  end
end
return nil
