-- Several files in one transaction, temporary tables, and two connections that see each other.
CREATE TABLE m(id INTEGER PRIMARY KEY, v);
ATTACH '{dir}/second.db' AS second;
ATTACH '{dir}/third.db' AS third;
CREATE TABLE second.s(id INTEGER PRIMARY KEY, v);
CREATE TABLE third.x(id INTEGER PRIMARY KEY, v);
PRAGMA database_list;
BEGIN;
INSERT INTO m(v) VALUES('main');
INSERT INTO second.s(v) VALUES('second');
INSERT INTO third.x(v) VALUES('third');
COMMIT;
SELECT m.v, s.v, x.v FROM m, s, x;
BEGIN;
UPDATE m SET v = 'lost';
UPDATE second.s SET v = 'lost';
ROLLBACK;
SELECT m.v, s.v FROM m, s;
INSERT INTO m(v) SELECT v FROM second.s UNION ALL SELECT v FROM third.x;
CREATE TABLE second.moved AS SELECT * FROM main.m;
SELECT count(*) FROM second.moved;
SELECT 'before', count(*) FROM main.sqlite_schema UNION ALL SELECT 'second', count(*) FROM second.sqlite_schema;
CREATE TEMP TABLE scratch(a, b);
INSERT INTO scratch SELECT id, v FROM m;
CREATE TEMP VIEW both AS SELECT scratch.a, s.v FROM scratch JOIN second.s ON s.id = scratch.a;
SELECT * FROM both ORDER BY a;
INSERT INTO second.s(v) SELECT b FROM scratch;
SELECT count(*) FROM second.s;
DETACH third;
SELECT * FROM third.x;
DETACH main;
DETACH nothing;
ATTACH ':memory:' AS memory;
CREATE TABLE memory.t AS SELECT * FROM m;
SELECT count(*) FROM memory.t;
DETACH memory;
-- @connection 2
SELECT count(*) FROM m;
INSERT INTO m(v) VALUES('from two');
-- @connection 1
SELECT v FROM m ORDER BY id DESC LIMIT 1;
BEGIN IMMEDIATE;
INSERT INTO m(v) VALUES('open');
-- @connection 2
SELECT count(*) FROM m WHERE v = 'open';
INSERT INTO m(v) VALUES('blocked');
BEGIN IMMEDIATE;
-- @connection 1
COMMIT;
-- @connection 2
SELECT count(*) FROM m WHERE v = 'open';
BEGIN;
SELECT count(*) FROM m;
ROLLBACK;
UPDATE m SET v = v || '+';
-- @connection 1
SELECT v FROM m ORDER BY id;
CREATE TABLE later(a);
-- @connection 2
INSERT INTO later VALUES(1);
SELECT * FROM later;
ALTER TABLE later ADD COLUMN b DEFAULT 5;
-- @connection 1
SELECT * FROM later;
DROP TABLE later;
-- @connection 2
SELECT * FROM later;
-- @reopen
-- @connection 1
SELECT count(*), group_concat(v) FROM m;
ATTACH '{dir}/second.db' AS second;
SELECT count(*) FROM second.s;
INSERT INTO second.s(v) VALUES('after reopening');
PRAGMA second.integrity_check;
PRAGMA main.integrity_check;
PRAGMA data_version;
PRAGMA schema_version;
PRAGMA encoding;
